//! The report as one page: plots, tables, the machine, and every figure. It needs no other file and no network.

mod plot;

use super::comparison::{cells, notes};
use super::report::{NtbPerf, Report};
use crate::options::show_size;
use plot::{Series, escape, short};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The page; `command` is what made it.
///
/// # Errors
/// When the figures cannot be put into JSON.
pub fn page(reports: &[Report], command: &str) -> anyhow::Result<String> {
    let mut body = String::new();
    head(&mut body, reports);
    cards(&mut body, reports);
    bandwidth(&mut body, reports);
    latency(&mut body, reports);
    network(&mut body, reports);
    tables(&mut body, reports);
    profiles(&mut body, reports);
    method(&mut body, reports, command);
    let json = escape(&serde_json::to_string_pretty(reports)?);
    let _ = write!(body, "<details><summary>Every figure, as JSON</summary><pre>{json}</pre></details>");
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Isthmus lab: ways through a memory window</title>\n<style>\n{STYLE}</style></head>\n\
         <body>\n{body}\n</body></html>\n"
    ))
}

/// The colour of a mode.
fn colour(window: &str) -> &'static str {
    let names = ["trap", "dma", "shared", "alias", "direct"];
    names.into_iter().find(|name| *name == window).unwrap_or("mixed")
}

/// What a mode is, in a few words.
fn meaning(window: &str) -> &'static str {
    match window {
        "trap" => "every store is a message",
        "dma" => "bulk goes by the I/OAT engine",
        "shared" => "the BAR is the peer's BAR",
        "alias" => "the BAR is also the peer's RAM",
        "direct" => "the BAR is the peer's RAM",
        _ => "port a's mode, port b's mode",
    }
}

fn head(body: &mut String, reports: &[Report]) {
    let title = if reports.len() > 1 { "Ways through a memory window" } else { "Through a memory window" };
    let _ = write!(body, "<header><h1>{title}</h1>");
    if let Some(Report { qemu, kernel, accel, window_bytes, machine, .. }) = reports.first() {
        let size = show_size(*window_bytes).replace('K', " KiB").replace('M', " MiB");
        let machine = escape(&machine.to_string());
        let _ = write!(
            body,
            "<p class=\"soft\">Two stock Linux {} guests in two stock QEMU {qemu} ({accel}), joined by Isthmus, a \
             virtual twin of the Intel NTB Gen3, through windows of {size}. Measured on {machine}.</p>",
            escape(kernel)
        );
    }
    body.push_str("</header>\n");
}

/// The mean of both directions.
fn mean(rates: impl Iterator<Item = f64>) -> Option<f64> {
    let rates: Vec<_> = rates.collect();
    let count = f64::from(u32::try_from(rates.len()).ok()?);
    (count > 0.0).then(|| rates.iter().sum::<f64>() / count)
}

fn headline(report: &Report, dma: bool) -> Option<f64> {
    mean(report.ntb_perf.iter().filter(|row| row.dma == dma).map(|row| row.mbytes_per_s))
}

fn rate(mbytes_per_s: f64) -> String {
    if mbytes_per_s >= 999.5 {
        format!("{:.1} GB/s", mbytes_per_s / 1000.0)
    } else {
        format!("{} MB/s", short(mbytes_per_s))
    }
}

fn cards(body: &mut String, reports: &[Report]) {
    body.push_str("<section class=\"cards\">");
    for report in reports {
        let window = &report.window;
        // Bulk in mode dma is the engine's.
        let stored = headline(report, window == "dma").map_or_else(|| "-".to_owned(), rate);
        let tcp = |dma| {
            let rows = report.iperf3.iter().flatten().filter(|row| row.proto == "tcp" && row.dma == dma);
            mean(rows.map(|row| row.mbits_per_s))
        };
        let tcp = tcp(window == "dma")
            .map_or_else(|| "no network".to_owned(), |rate| format!("TCP {} Mbit/s", short(rate)));
        let rtt =
            report.ping.map(|ping| format!(" · {} ms", short(ping.rtt_us.avg / 1000.0))).unwrap_or_default();
        let _ = write!(
            body,
            "<div class=\"card\" style=\"--mode:var(--{})\"><span class=\"name\">{}</span><b>{stored}</b>\
             <span>{tcp}{rtt}</span><span>{}</span></div>",
            colour(window),
            escape(window),
            meaning(window)
        );
    }
    body.push_str("</section>\n<p class=\"soft\">Large: ntb_perf, the mean of both directions' medians; in mode dma by the \
                   engine. Small: iperf3 over ntb_netdev and the mean round trip of ping.</p>\n");
}

fn sizes(reports: &[Report]) -> Vec<u64> {
    let mut sizes: Vec<_> = rows(reports).map(|row| row.chunk_bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

fn rows(reports: &[Report]) -> impl Iterator<Item = &NtbPerf> {
    reports.iter().flat_map(both)
}

/// ntb_perf's own chunks and the others.
fn both(report: &Report) -> impl Iterator<Item = &NtbPerf> {
    report.ntb_perf.iter().chain(&report.ntb_perf_chunks)
}

fn curve(report: &Report, dma: bool, sizes: &[u64]) -> Option<Series> {
    let at = |size: u64| {
        let rows = both(report).filter(|row| row.dma == dma && row.chunk_bytes == size);
        Some((plot::parse(size), mean(rows.map(|row| row.mbytes_per_s))?))
    };
    let points: Vec<_> = sizes.iter().filter_map(|&size| at(size)).collect();
    let window = report.window.as_str();
    let name = match (window, dma) {
        (_, true) => format!("{window}, the engine"),
        ("dma", false) => "dma, the processor".to_owned(),
        _ => window.to_owned(),
    };
    (!points.is_empty()).then(|| Series { name, colour: colour(window), dashed: dma, points })
}

fn bandwidth(body: &mut String, reports: &[Report]) {
    let sizes = sizes(reports);
    let mut series: Vec<_> = reports.iter().filter_map(|report| curve(report, false, &sizes)).collect();
    // The engine is the same in every mode: one line stands for it, that of mode dma where there is one.
    let engines = || reports.iter().filter(|report| report.ntb_perf.iter().any(|row| row.dma));
    let engine = engines().find(|report| report.window == "dma").or_else(|| engines().next_back());
    series.extend(engine.and_then(|report| curve(report, true, &sizes)));
    let memory = mean(reports.iter().flat_map(|report| report.copy.iter().map(|row| row.memory.median)));
    if let Some(memory) = memory {
        let ends = [sizes.first(), sizes.last()].into_iter().flatten();
        let points = ends.map(|&size| (plot::parse(size), memory)).collect();
        series.push(Series {
            name: "copy loop, plain memory".to_owned(),
            colour: "soft",
            dashed: true,
            points,
        });
    }
    let _ = writeln!(
        body,
        "<section><h2>Bandwidth against chunk size</h2><figure>{}<figcaption>ntb_perf of the guests' own kernel, medians \
         of five runs, mean of both directions; bandwidth is logarithmic. Dashed: the I/OAT engine, and a copy loop between two \
         places in the plain memory of an emulated guest.</figcaption></figure></section>",
        plot::lines(&series, &sizes)
    );
}

fn latency(body: &mut String, reports: &[Report]) {
    let range = |name: &str, colour, ping: super::report::Ping| {
        let rtt = ping.rtt_us;
        let points = [rtt.min, rtt.avg, rtt.max].map(|us| (0.0, us / 1000.0)).to_vec();
        Series { name: name.to_owned(), colour, dashed: false, points }
    };
    let bridges =
        reports.iter().filter_map(|report| Some(range(&report.window, colour(&report.window), report.ping?)));
    let beside = reports.iter().rev().find_map(|report| report.virtio_net.as_ref());
    let series: Vec<_> =
        bridges.chain(beside.map(|virtio| range("virtio-net beside it", "virtio", virtio.ping))).collect();
    if series.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<section><h2>Round trips</h2><figure>{}<figcaption>ping over ntb_netdev: shortest, mean (the dot) and longest of \
         50, in milliseconds.</figcaption></figure></section>",
        plot::rows(&series, "ms", "Round trips")
    );
}

fn network(body: &mut String, reports: &[Report]) {
    let bar = |name: String, colour, dashed, rates: Vec<f64>| {
        let value = mean(rates.into_iter())?;
        Some(Series { name, colour, dashed, points: vec![(0.0, value); 3] })
    };
    let mut series = Vec::new();
    for report in reports {
        for dma in [false, true] {
            let rows = report.iperf3.iter().flatten().filter(|row| row.proto == "tcp" && row.dma == dma);
            let name = format!("{}{}", report.window, if dma { ", by DMA" } else { "" });
            series.extend(bar(name, colour(&report.window), dma, rows.map(|row| row.mbits_per_s).collect()));
        }
    }
    if let Some(virtio) = reports.iter().rev().find_map(|report| report.virtio_net.as_ref()) {
        let rates = virtio.iperf3.iter().map(|row| row.mbits_per_s).collect();
        series.extend(bar("virtio-net beside it".to_owned(), "virtio", false, rates));
    }
    if series.is_empty() {
        return;
    }
    let _ = writeln!(
        body,
        "<section><h2>TCP</h2><figure>{}<figcaption>iperf3, one TCP stream over ntb_netdev, Mbit/s, mean of both directions; \
         pale where ntb_transport copies by the I/OAT engine. virtio-net joins the same two guests by a socket between their \
         QEMUs.</figcaption></figure></section>",
        plot::rows(&series, "Mbit/s", "TCP")
    );
}

fn tables(body: &mut String, reports: &[Report]) {
    body.push_str(
        "<section><h2>All modes</h2><div class=\"scroll\"><table><thead><tr><th></th><th colspan=2>ntb_perf MB/s</th>\
         <th colspan=2>by DMA MB/s</th><th colspan=2>BAR : memory</th><th colspan=2>TCP Mbit/s</th>\
         <th colspan=2>TCP by DMA</th><th colspan=2>ping &micro;s</th><th>pattern</th></tr><tr><th>window</th>",
    );
    let ways = ["a &rarr; b", "b &rarr; a"];
    for pair in [ways, ways, ["in a", "in b"], ways, ways, ["min", "mean"]] {
        for name in pair {
            let _ = write!(body, "<th>{name}</th>");
        }
    }
    body.push_str("<th></th></tr></thead><tbody>");
    for report in reports {
        row(body, &report.window, cells(report).iter().map(String::as_str));
    }
    body.push_str("</tbody></table></div>");
    for note in notes(reports) {
        let _ = write!(body, "<p class=\"soft\">{}</p>", escape(&note));
    }
    body.push_str(
        "</section>\n<section><h2>Medians and what they hide</h2><div class=\"scroll\"><table><thead><tr><th>window</th>\
         <th>way</th><th>chunk</th><th>median MB/s</th><th>slowest</th><th>fastest</th><th>places tried</th></tr></thead><tbody>",
    );
    for report in reports {
        for one in &report.ntb_perf {
            let cells = [
                format!("{} to {}{}", one.from, one.to, if one.dma { ", DMA" } else { "" }),
                show_size(one.chunk_bytes),
                format!("{:.1}", one.mbytes_per_s),
                format!("{:.1}", one.slowest_mbytes_per_s),
                format!("{:.1}", one.fastest_mbytes_per_s),
                one.placements.to_string(),
            ];
            row(body, &report.window, cells.iter().map(String::as_str));
        }
    }
    body.push_str(
        "</tbody></table></div><h2>One copy loop, two targets</h2><div class=\"scroll\"><table><thead><tr><th>window</th>\
         <th>guest</th><th>into the BAR MB/s</th><th>slowest</th><th>into memory MB/s</th><th>slowest</th><th>ratio</th></tr>\
         </thead><tbody>",
    );
    for report in reports {
        for one in &report.copy {
            let rates = [one.bar.median, one.bar.min, one.memory.median, one.memory.min];
            let mut cells = vec![one.guest.to_owned()];
            cells.extend(rates.map(|rate| format!("{rate:.1}")));
            cells.push(format!("{:.2}", one.ratio));
            row(body, &report.window, cells.iter().map(String::as_str));
        }
    }
    body.push_str("</tbody></table></div></section>\n");
}

fn row<'a>(body: &mut String, window: &str, cells: impl Iterator<Item = &'a str>) {
    let (colour, window) = (colour(window), escape(window));
    let _ = write!(body, "<tr><td class=\"name\" style=\"--mode:var(--{colour})\">{window}</td>");
    for cell in cells {
        let _ = write!(body, "<td>{}</td>", escape(cell));
    }
    body.push_str("</tr>");
}

fn profiles(body: &mut String, reports: &[Report]) {
    for (report, profile) in reports.iter().filter_map(|report| Some((report, report.profile.as_ref()?))) {
        let _ = write!(
            body,
            "<section><h2>What limits TCP, windows {}</h2><p>{}.</p><p class=\"soft\">{}; {} samples by <code>{}</code>, with \
             QEMU's <code>-perfmap</code>, so that translated code has the names of the guest's kernel functions.</p>\
             <div class=\"scroll\"><table><tbody>",
            escape(&report.window),
            escape(&profile.limit),
            escape(&profile.what),
            profile.samples,
            escape(&profile.made_by)
        );
        for share in profile.threads.iter().take(4).chain(&profile.functions) {
            let _ = write!(body, "<tr><td>{}</td><td>{:.1} %</td></tr>", escape(&share.name), share.percent);
        }
        body.push_str("</tbody></table></div></section>\n");
    }
}

fn method(body: &mut String, reports: &[Report], command: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(
        body,
        "<section><h2>How it was measured</h2><p>By Isthmus {version}: <code>{}</code></p><p class=\"soft\">Every mode had two \
         guests of its own, from the same images. ntb_perf's median is of five runs. The copy loop is one piece of machine code in a \
         process of the guest, which stores to the BAR and to plain memory in turns. In emulated guests ntb_perf's buffer and \
         its window can lie so that they push each other out of QEMU's page table cache; the column <em>places tried</em> \
         says how often the lab moved the window until they did not.</p>",
        escape(command)
    );
    let patterns: usize = reports.iter().map(|report| report.pattern.as_ref().map_or(0, Vec::len)).sum();
    let _ = writeln!(
        body,
        "<p class=\"soft\">{patterns} random patterns went through windows and had the same SHA-256 at both ends.</p></section>"
    );
}

#[cfg(test)]
mod tests {
    use super::super::profile::{Profile, Share};
    use super::super::report::tests::{sample, sample_shared};
    use super::page;

    #[test]
    fn a_page_needs_nothing_else() {
        let mut profiled = sample();
        let share = |name: &str| Share { percent: 50.0, name: name.to_owned() };
        profiled.profile = Some(Profile {
            what: "iperf3".to_owned(),
            made_by: "perf record".to_owned(),
            samples: 10,
            limit: "memcpy <x>".to_owned(),
            threads: vec![share("CPU 0")],
            functions: vec![share("memcpy <x>")],
        });
        let text = page(&[profiled, sample_shared()], "isthmus lab perf --window all > \"x\"").unwrap();
        for foreign in ["http://", "https://", "<script", "src=", "@import", "url("] {
            assert!(!text.contains(foreign), "{foreign}");
        }
        assert_eq!(text.matches("<svg").count(), 3);
        for part in [
            "memcpy &lt;x&gt;",
            "--window all &gt; &quot;x&quot;",
            "A processor, 2 processors",
            "80.5 MB/s",
            "0.95",
        ] {
            assert!(text.contains(part), "no {part}");
        }
        for element in ["section", "table", "tr", "td", "svg", "figure", "details"] {
            let (open, close) = (format!("<{element}"), format!("</{element}>"));
            let opened =
                text.matches(&format!("{open}>")).count() + text.matches(&format!("{open} ")).count();
            assert_eq!(opened, text.matches(&close).count(), "{element}");
        }
    }

    #[test]
    fn a_mode_without_a_network_has_no_plots_of_one() {
        let text = page(&[sample_shared()], "isthmus").unwrap();
        assert_eq!(text.matches("<svg").count(), 1);
        assert!(text.contains("no network"));
        assert!(page(&[], "isthmus").is_ok());
    }
}
