//! What the guests' tools print, read.

use serde_json::Value;

/// What `ping` says at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ping {
    /// Requests.
    pub sent: u32,
    /// Answers.
    pub received: u32,
    /// Shortest, mean and longest round trip in milliseconds, if any answer came.
    pub rtt_ms: Option<(f64, f64, f64)>,
}

/// Reads the summary of iputils' and of busybox's ping.
#[must_use]
pub fn ping(text: &str) -> Option<Ping> {
    let counts = text.lines().find(|line| line.contains("transmitted"))?;
    let mut numbers = counts.split(", ").filter_map(|part| part.split_whitespace().next()?.parse().ok());
    let (sent, received) = (numbers.next()?, numbers.next()?);
    let times = text.lines().find(|line| line.contains("min/avg/max")).and_then(|line| {
        let values = line.split_once(" = ")?.1.split_whitespace().next()?;
        let mut values = values.split('/').map(str::parse);
        Some((values.next()?.ok()?, values.next()?.ok()?, values.next()?.ok()?))
    });
    Some(Ping { sent, received, rtt_ms: times })
}

/// What ntb_perf's `run` file says of its one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NtbPerf {
    /// Bytes that it stored.
    pub bytes: u64,
    /// Microseconds that it took.
    pub micros: u64,
}

impl NtbPerf {
    /// Megabytes a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        ratio(self.bytes, self.micros)
    }
}

/// A quotient of counts; counts beyond 2^53 lose their last bits, which no report shows.
#[must_use]
pub fn ratio(above: u64, below: u64) -> f64 {
    let float = |value: u64| {
        let [high, low] =
            [value >> 32, value & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        f64::from(high) * 4_294_967_296.0 + f64::from(low)
    };
    if below == 0 { 0.0 } else { float(above) / float(below) }
}

/// Reads ntb_perf's `run` file, printed once or several times.
///
/// # Errors
/// A sentence with what it says instead of a result.
pub fn ntb_perf(text: &str) -> Result<Vec<NtbPerf>, String> {
    let read = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, "copied", bytes, "bytes", "in", micros, "usecs,", ..] = words.as_slice() else { return None };
        Some(NtbPerf { bytes: bytes.parse().ok()?, micros: micros.parse().ok()? })
    };
    let runs: Vec<_> = text.lines().filter_map(read).collect();
    if runs.is_empty() { Err(format!("ntb_perf has no result: {:?}", text.trim())) } else { Ok(runs) }
}

/// What an iperf3 client measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iperf {
    /// What arrived, in megabits a second.
    pub mbits_per_s: f64,
    /// Datagrams that did not, in percent (UDP).
    pub lost_percent: Option<f64>,
    /// Segments sent again (TCP).
    pub retransmits: Option<u64>,
}

/// Reads `iperf3 --json` of a client.
///
/// # Errors
/// iperf3's own error, or that the JSON is not iperf3's.
pub fn iperf3(text: &str) -> Result<Iperf, String> {
    let root: Value =
        serde_json::from_str(text).map_err(|error| format!("iperf3 printed no JSON ({error}): {text:?}"))?;
    if let Some(error) = root.get("error").and_then(Value::as_str) {
        return Err(format!("iperf3: {error}"));
    }
    let end = root.get("end").ok_or("iperf3's JSON has no end")?;
    let rate = |name: &str| end.get(name)?.get("bits_per_second")?.as_f64();
    let lost_percent = end.get("sum").and_then(|sum| sum.get("lost_percent")?.as_f64());
    // Older versions give UDP one sum, of what was sent.
    let bits = rate("sum_received").filter(|bits| *bits > 0.0);
    let bits = bits.or_else(|| Some(rate("sum")? * (1.0 - lost_percent.unwrap_or(0.0) / 100.0)));
    Ok(Iperf {
        mbits_per_s: bits.ok_or("iperf3's JSON has no rate")? / 1e6,
        lost_percent,
        retransmits: end.get("sum_sent").and_then(|sum| sum.get("retransmits")?.as_u64()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_ping_are_read() {
        let busybox = "PING 10.0.0.2\n64 bytes..\n--- 10.0.0.2 ping statistics ---\n\
                       20 packets transmitted, 19 packets received, 5% packet loss\n\
                       round-trip min/avg/max = 3.101/4.5/9.000 ms\n";
        let iputils = "20 packets transmitted, 19 received, 5% packet loss, time 19ms\n\
                       rtt min/avg/max/mdev = 3.101/4.500/9.000/0.1 ms\n";
        let read = Ping { sent: 20, received: 19, rtt_ms: Some((3.101, 4.5, 9.0)) };
        assert_eq!(ping(busybox), Some(read));
        assert_eq!(ping(iputils), Some(read));
        let dead = "3 packets transmitted, 0 packets received, 100% packet loss\n";
        assert_eq!(ping(dead), Some(Ping { sent: 3, received: 0, rtt_ms: None }));
        let errors = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2ms\n";
        assert_eq!(ping(errors).unwrap().received, 0);
        assert_eq!(ping("ping: unknown host"), None);
    }

    #[test]
    fn a_result_of_ntb_perf_is_read_and_an_error_is_shown() {
        let text = "    Peer 0 test statistics:\n0: copied 67108864 bytes in 1597830 usecs, 42 MBytes/s\n";
        let read = NtbPerf { bytes: 67_108_864, micros: 1_597_830 };
        assert_eq!(ntb_perf(text), Ok(vec![read]));
        assert_eq!(ntb_perf(&text.repeat(3)), Ok(vec![read; 3]));
        assert!((read.rate() - 42.0).abs() < 0.1);
        let error = ntb_perf("    Peer 0 test statistics:\n0: error status -4\n").unwrap_err();
        assert!(error.contains("error status -4"));
    }

    #[test]
    fn iperf3_is_read_whatever_its_version() {
        let tcp = r#"{"end":{"sum_sent":{"bits_per_second":9e6,"retransmits":3},"sum_received":{"bits_per_second":8e6}}}"#;
        assert_eq!(iperf3(tcp), Ok(Iperf { mbits_per_s: 8.0, lost_percent: None, retransmits: Some(3) }));
        let udp = r#"{"end":{"sum":{"bits_per_second":10e6,"lost_percent":20}}}"#;
        assert_eq!(iperf3(udp), Ok(Iperf { mbits_per_s: 8.0, lost_percent: Some(20.0), retransmits: None }));
        assert!(iperf3(r#"{"error":"unable to connect"}"#).unwrap_err().contains("unable"));
        assert!(iperf3("iperf3: nonsense").is_err());
    }

    #[test]
    fn ratios_do_not_divide_by_nothing() {
        assert_eq!(ratio(5, 0).to_bits(), 0.0_f64.to_bits());
        assert!((ratio(1 << 40, 1 << 20) - 1_048_576.0).abs() < 1e-6);
    }
}
