//! The run as a page: figures, verdicts and the timeline, in one file without scripts.

use crate::Options;
use crate::stage::{Figure, milliseconds};
use crate::timeline::{BUCKET, Bucket, Events, Timeline};
use crate::verify::Check;
use std::fmt::Write as _;

const STYLE: &str = include_str!("report.css");

/// The drawing area of a chart in the units of its view box.
const LEFT: f64 = 64.0;
const WIDTH: f64 = 1020.0;
const TOP: f64 = 100.0;
const HEIGHT: f64 = 220.0;
const VIEW_WIDTH: f64 = LEFT + WIDTH + 16.0;

/// The whole page.
pub(crate) fn page(
    options: &Options,
    timeline: &Timeline,
    events: &Events,
    figures: &[Figure],
    checks: &[Check],
) -> String {
    let mut page = String::with_capacity(256 << 10);
    let passed = checks.iter().all(|check| check.holds);
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>raft-io: what goes wrong under load</title><style>{STYLE}</style></head><body><main>\
         <header><p class=\"eyebrow\">raft-io</p><h1>What goes wrong under load</h1>\
         <p class=\"lead\">Durable nodes and {} clients on one machine: {}.</p>\
         <p class=\"verdict {}\">{}</p></header>",
        options.connections,
        escape(&events.phases.iter().map(|phase| phase.name).collect::<Vec<_>>().join(", ")),
        if passed { "good" } else { "bad" },
        if passed { "Every check holds" } else { "A check failed" },
    );
    page.push_str("<section class=\"figures\">");
    for Figure { name, value, note } in figures {
        let (name, value, note) = (escape(name), escape(value), escape(note));
        let _ = write!(page, "<div><dt>{name}</dt><dd>{value}</dd><dd class=\"small\">{note}</dd></div>");
    }
    page.push_str("</section><section><h2>Throughput</h2><p class=\"note\">Operations completed per second, by tenths of a second.</p>");
    throughput(&mut page, timeline, events);
    page.push_str(
        "</section><section><h2>Latency</h2><p class=\"note\">Logarithmic. \
         <span class=\"key median\">median</span> <span class=\"key tail\">99th percentile</span></p>",
    );
    latency(&mut page, timeline, events);
    page.push_str("</section><section><h2>Checks</h2><table>");
    for check in checks {
        let (class, word) = if check.holds { ("good", "holds") } else { ("bad", "fails") };
        let _ = write!(
            page,
            "<tr><th>{}</th><td class=\"{class}\">{word}</td><td>{}</td></tr>",
            escape(check.name),
            escape(&check.detail)
        );
    }
    let _ = write!(
        page,
        "</table></section><footer>Seed {}, heartbeat {} ms. Made by <code>cargo run --release --example cluster</code>.\
         </footer></main></body></html>",
        options.seed, options.tick_ms
    );
    page
}

/// Where things lie on a chart.
struct Chart<'a> {
    page: &'a mut String,
    /// The time at the right edge, in nanoseconds.
    end: f64,
}

impl<'a> Chart<'a> {
    fn open(page: &'a mut String, label: &str, events: &Events) -> Self {
        let _ = write!(
            page,
            "<svg viewBox=\"0 0 {VIEW_WIDTH} {}\" role=\"img\" aria-label=\"{label}\">",
            TOP + HEIGHT + 30.0
        );
        Self { page, end: events.end.max(1) as f64 }
    }

    fn x(&self, nanoseconds: f64) -> f64 {
        LEFT + WIDTH * (nanoseconds / self.end).min(1.0)
    }

    /// A horizontal line of the grid at `share` of the height, with its label.
    fn grid(&mut self, share: f64, label: &str) {
        let y = TOP + HEIGHT * (1.0 - share);
        let _ = write!(
            self.page,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"axis\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT + WIDTH,
            LEFT - 8.0,
            y + 4.0
        );
    }

    fn seconds(&mut self) {
        let seconds = self.end / 1e9;
        let step = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0].into_iter().find(|step| seconds / step <= 16.0).unwrap_or(300.0);
        let mut at = 0.0;
        while at <= seconds {
            let (x, y) = (self.x(at * 1e9), TOP + HEIGHT + 20.0);
            let _ = write!(
                self.page,
                "<text class=\"axis\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{at:.0} s</text>"
            );
            at += step;
        }
    }

    /// A line through the buckets; a gap where there is nothing.
    fn line(&mut self, class: &str, shares: &[Option<f64>]) {
        let mut path = String::new();
        let mut pen = 'M';
        for (position, share) in shares.iter().enumerate() {
            let Some(share) = share else {
                pen = 'M';
                continue;
            };
            let x = self.x((position as f64 + 0.5) * BUCKET as f64);
            let _ = write!(path, "{pen}{x:.1} {:.1}", TOP + HEIGHT * (1.0 - share));
            pen = 'L';
        }
        let _ = write!(self.page, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    /// The parts of the run, as bands with their names in two rows: some are narrow.
    fn bands(&mut self, events: &Events) {
        for (position, phase) in events.phases.iter().enumerate() {
            let (from, to) = (self.x(phase.from as f64), self.x(phase.to as f64));
            let name = escape(phase.name);
            let _ = write!(
                self.page,
                "<g class=\"band\"><rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{name}</text><title>{name}: {:.1} s to {:.1} s</title></g>",
                to - from,
                from + 5.0,
                TOP + 14.0 + 16.0 * (position % 2) as f64,
                phase.from as f64 / 1e9,
                phase.to as f64 / 1e9
            );
        }
    }

    /// What happened, each with a label of its own; close ones take turns in height.
    fn markers(&mut self, events: &Events) {
        let killed = format!("node {} killed", events.killed_node + 1);
        let leader = format!("node {} leads", events.new_leader_node + 1);
        let of_the_kill = [
            (Some(events.killed), "kill", killed.as_str()),
            (Some(events.new_leader), "leader", leader.as_str()),
            (events.next_write, "write", "first acknowledged write"),
            (Some(events.restarted), "restart", "restarted"),
            (Some(events.caught_up), "caught", "caught up"),
        ];
        let of_the_kill = of_the_kill.into_iter().filter_map(|(at, class, label)| Some((at?, class, label)));
        let later = events.marks.iter().map(|mark| (mark.at, mark.class, mark.label.as_str()));
        let mut ends = [f64::MIN; 5];
        for (at, class, label) in of_the_kill.chain(later) {
            let x = self.x(at as f64);
            let row = ends.iter().position(|end| *end < x).unwrap_or(ends.len() - 1);
            ends[row] = x + 12.0 + 7.0 * label.len() as f64;
            let y = 14.0 + 17.0 * row as f64;
            let _ = write!(
                self.page,
                "<g class=\"mark {class}\"><line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{label}</text><title>{label} at {:.3} s</title></g>",
                y - 10.0,
                TOP + HEIGHT,
                x + 5.0,
                y,
                at as f64 / 1e9
            );
        }
    }

    /// Invisible bars that answer the pointer with the figures of their bucket.
    fn tips(&mut self, buckets: &[Bucket]) {
        for (position, bucket) in buckets.iter().enumerate() {
            let from = self.x(position as f64 * BUCKET as f64);
            let to = self.x((position as f64 + 1.0) * BUCKET as f64);
            let quantile = |value: Option<u64>| value.map_or("none".into(), milliseconds);
            let _ = write!(
                self.page,
                "<rect class=\"tip\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{HEIGHT}\">\
                 <title>{:.1} s: {} ops/s, p50 {}, p99 {}</title></rect>",
                to - from,
                position as f64 * BUCKET as f64 / 1e9,
                per_second(bucket),
                quantile(bucket.median),
                quantile(bucket.p99)
            );
        }
    }

    fn close(self) {
        self.page.push_str("</svg>");
    }
}

fn per_second(bucket: &Bucket) -> u64 {
    bucket.count as u64 * (1_000_000_000 / BUCKET)
}

/// The buckets that the load filled as a whole; the last one ended early.
fn whole(timeline: &Timeline) -> &[Bucket] {
    &timeline.buckets[..timeline.buckets.len().saturating_sub(1)]
}

fn throughput(page: &mut String, timeline: &Timeline, events: &Events) {
    let buckets = whole(timeline);
    let highest = buckets.iter().map(per_second).max().unwrap_or(0).max(1) as f64;
    let step = round_step(highest / 4.0);
    let top = (highest / step).ceil() * step;
    let mut chart = Chart::open(page, "Operations per second over time", events);
    let mut value = 0.0;
    while value <= top {
        chart.grid(value / top, &thousands(value as u64));
        value += step;
    }
    chart.seconds();
    let shares: Vec<Option<f64>> = buckets.iter().map(|bucket| Some(per_second(bucket) as f64 / top)).collect();
    let mut area = format!("M{LEFT} {}", TOP + HEIGHT);
    for (position, share) in shares.iter().enumerate() {
        let x = chart.x((position as f64 + 0.5) * BUCKET as f64);
        let _ = write!(area, "L{x:.1} {:.1}", TOP + HEIGHT * (1.0 - share.unwrap_or(0.0)));
    }
    let _ = write!(chart.page, "<path class=\"area\" d=\"{area}L{} {}Z\"/>", LEFT + WIDTH, TOP + HEIGHT);
    chart.line("rate", &shares);
    chart.bands(events);
    chart.markers(events);
    chart.tips(buckets);
    chart.close();
}

fn latency(page: &mut String, timeline: &Timeline, events: &Events) {
    let buckets = whole(timeline);
    let seen =
        || buckets.iter().flat_map(|bucket| [bucket.median, bucket.p99]).flatten().map(|value| value.max(1) as f64);
    let lowest = seen().fold(f64::MAX, f64::min).min(1e6).log10().floor();
    let highest = seen().fold(1e7, f64::max).log10().ceil();
    let mut chart = Chart::open(page, "Latency over time", events);
    for power in lowest as i32..=highest as i32 {
        let label = match power {
            ..6 => format!("{} µs", 10f64.powi(power - 3)),
            6..9 => format!("{} ms", 10f64.powi(power - 6)),
            _ => format!("{} s", 10f64.powi(power - 9)),
        };
        chart.grid((f64::from(power) - lowest) / (highest - lowest), &label);
    }
    chart.seconds();
    let share = |value: Option<u64>| value.map(|value| ((value.max(1) as f64).log10() - lowest) / (highest - lowest));
    chart.line("tail", &buckets.iter().map(|bucket| share(bucket.p99)).collect::<Vec<_>>());
    chart.line("median", &buckets.iter().map(|bucket| share(bucket.median)).collect::<Vec<_>>());
    chart.bands(events);
    chart.markers(events);
    chart.tips(buckets);
    chart.close();
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= least).unwrap_or(power)
}

fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
