use super::*;
use std::io::Write;

/// A region of an ordinary file, which is read and written as one of a device is.
fn region_of(bytes: u64) -> (std::fs::File, RegionInfo) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0xAA; 4096]).unwrap();
    file.write_all(&vec![0; usize::try_from(bytes).unwrap()]).unwrap();
    let region = RegionInfo { flags: ioctl::REGION_READ_WRITE, bytes, offset: 4096, sparse: false };
    (file, region)
}

#[test]
fn accesses_stay_in_their_region() {
    let (file, region) = region_of(64);
    write_at(file.as_fd(), &region, 60, &[1, 2, 3, 4], "it").unwrap();
    let mut out = [0; 4];
    read_at(file.as_fd(), &region, 60, &mut out, "it").unwrap();
    assert_eq!(out, [1, 2, 3, 4]);
    for (offset, bytes) in [(61, 4), (64, 1), (u64::MAX, 1), (u64::MAX - 1, 4), (0, 65)] {
        let mut out = vec![7; bytes];
        let refused = read_at(file.as_fd(), &region, offset, &mut out, "it");
        assert!(matches!(refused, Err(FunctionError::Range { .. })), "{offset:#x} {bytes}");
        assert!(out.iter().all(|byte| *byte == 7));
        assert!(write_at(file.as_fd(), &region, offset, &out, "it").is_err());
    }
    read_at(file.as_fd(), &region, 64, &mut [], "it").unwrap();
}

#[test]
fn a_device_that_answers_nothing_is_gone() {
    let (file, mut region) = region_of(64);
    region.bytes = 1 << 20;
    let error = read_at(file.as_fd(), &region, 100, &mut [0; 4], "it").unwrap_err();
    assert!(matches!(error, FunctionError::Gone { .. }), "{error}");
    assert!(matches!(map(file.as_fd(), &region), Ok(None)), "nothing says that it may be mapped");
}

#[test]
fn the_power_state_is_found_and_circles_end() {
    let (file, region) = region_of(256);
    let set = |at: u64, data: &[u8]| write_at(file.as_fd(), &region, at, data, "it").unwrap();
    assert_eq!(find_power(file.as_fd(), &region).unwrap(), None);
    set(STATUS.into(), &[STATUS_CAPABILITIES]);
    assert_eq!(find_power(file.as_fd(), &region).unwrap(), None);
    set(CAPABILITIES.into(), &[0x80]);
    set(0x80, &[0x11, 0xE0]);
    set(0xE0, &[POWER_CAPABILITY, 0]);
    assert_eq!(find_power(file.as_fd(), &region).unwrap(), Some(0xE4));
    set(0x80, &[0x11, 0x80]);
    assert_eq!(find_power(file.as_fd(), &region).unwrap(), None);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let error = Vfio::open("ffff:ff:1f.7".parse().unwrap()).unwrap_err();
    assert!(matches!(error, FunctionError::Vfio(VfioError::NoDevice { .. })), "{error}");
}
