//! A task that waits for a bridge.

use ntb::{AsyncEvents, Bridge, Gen3, Speed, Width};
use std::sync::Arc;
use std::time::Duration;
use twin_local::{LocalTwin, WindowMode};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "current_thread")]
async fn a_task_hears_of_the_link_and_of_every_doorbell() {
    let (usd, dsd) = LocalTwin::pair(WindowMode::Trap).unwrap();
    let (usd, dsd) = (Gen3::open(Arc::new(usd)).unwrap(), Gen3::open(Arc::new(dsd)).unwrap());
    let dsd: Arc<dyn Bridge> = Arc::new(dsd);
    dsd.doorbells_unmask(0xFF).unwrap();
    let events = AsyncEvents::new(Arc::clone(&dsd)).unwrap();
    let next = || async { tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap() };
    for end in [&usd as &dyn Bridge, &*dsd] {
        end.link_enable(Speed::Auto, Width::Auto).unwrap();
    }
    assert!(next().await.link.unwrap().up);
    for bell in 0..8 {
        usd.ring(1 << bell).unwrap();
        assert_eq!(next().await.doorbells, 1 << bell);
        dsd.doorbells_clear(1 << bell).unwrap();
    }
    // What is given up loses nothing.
    assert!(tokio::time::timeout(Duration::from_millis(5), events.next()).await.is_err());
    usd.ring(1).unwrap();
    assert_eq!(next().await.doorbells, 1);
}
