//! A whole setup into an empty cache: needs a Debian mirror, 2.5 GB and a minute or two, so it runs only when asked:
//! `cargo test -p lab --test artifacts -- --ignored`.
#![expect(clippy::tests_outside_test_module, reason = "every function of an integration test is a test")]

use std::fs;
use std::time::{Duration, Instant};

use lab::artifacts::{Series, SetupOptions, Silent, setup};

#[test]
#[ignore = "downloads about 700 MB"]
fn a_fresh_setup_makes_what_boots_and_a_second_one_reuses_it() {
    let cache = tempfile::tempdir().unwrap();
    let options = SetupOptions {
        series: Series::ALL.to_vec(),
        cache: Some(cache.path().to_owned()),
        ..SetupOptions::default()
    };
    let first = setup(&options, &mut Silent).unwrap();
    assert!(first.qemu.version >= (10, 1, 0));
    let help = first.qemu.command().args(["-device", "vfio-user-pci,help"]).output().unwrap();
    assert!(help.status.success());
    for image in &first.images {
        assert!(image.release.starts_with(image.series.name()));
        assert!(fs::metadata(&image.kernel).unwrap().len() > 1 << 20);
        let archive = fs::read(&image.rootfs).unwrap();
        assert!(archive.len() < 40 << 20);
        assert_eq!(archive.len() % 512, 0);
        for module in
            ["ntb", "ntb_hw_intel", "ntb_transport", "ntb_netdev", "ntb_perf", "ntb_pingpong", "ntb_tool"]
        {
            assert!(image.debug_modules.join(format!("{module}.ko")).is_file(), "{module}");
            let name = format!("usr/lib/modules/{}/extra/{module}.ko", image.release);
            assert!(archive.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
        }
    }
    let begun = Instant::now();
    let second = setup(&options, &mut Silent).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    let paths = |artifacts: &lab::artifacts::Artifacts| {
        artifacts.images.iter().map(|image| (image.kernel.clone(), image.rootfs.clone())).collect::<Vec<_>>()
    };
    assert_eq!(paths(&first), paths(&second));
}
