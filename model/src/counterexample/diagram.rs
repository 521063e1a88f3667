//! The space-time diagram of a trace: one lane per server, time downward, messages as arrows from where they left to
//! where they arrived.
//!
//! The drawing names classes only; `assets/diagram.css` says what they look like, in light and in dark.

use super::changes::{Variables, of_server, per_server};
use super::{Fate, Happening, Trace, words};
use crate::server::Input;
use crate::value::Value;
use raft_io::{Envelope, Event, Message, NodeId, Transition};

/// What the classes of a drawing look like.
pub const STYLE: &str = include_str!("../assets/diagram.css");

const ROW: f64 = 46.0;
const TOP: f64 = 52.0;
const LEFT: f64 = 42.0;
const BOTTOM: f64 = 36.0;
/// How far an arrow keeps from the middle of a lane.
const MARK: f64 = 8.0;

/// How wide the parts of a drawing are.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// A lane.
    pub lane: f64,
    /// The words at its right.
    pub labels: f64,
}

impl Layout {
    /// For a page of its own. Many lanes are narrower: the words and the state shall stand beside them.
    #[must_use]
    pub fn page(servers: usize) -> Self {
        Self { lane: if servers > 3 { 80.0 } else { 108.0 }, labels: 340.0 }
    }

    /// Beside other things.
    pub const NARROW: Self = Self { lane: 76.0, labels: 250.0 };
}

/// The drawing as a file of its own.
#[must_use]
pub fn picture(trace: &Trace) -> String {
    let drawing = drawing(trace, Layout::page(trace.servers.len()));
    let (opening, rest) = drawing.split_once('>').expect("it is an element");
    format!("{opening}>\n<style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{rest}\n")
}

/// The drawing as an element of a page.
#[must_use]
pub fn drawing(trace: &Trace, layout: Layout) -> String {
    let mut canvas = Canvas { trace, layout, svg: String::new() };
    let (width, height) = (canvas.labels_at() + layout.labels, TOP + ROW * trace.steps.len() as f64 + BOTTOM);
    canvas.rows(width);
    canvas.lanes();
    canvas.messages();
    for at in 0..trace.steps.len() {
        canvas.mark(at);
        canvas.label(at);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"diagram\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Space-time diagram\">{ARROWHEADS}{}</svg>",
        canvas.svg
    )
}

const ARROWHEADS: &str = "<defs><marker id=\"head\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" \
                          markerHeight=\"7\" orient=\"auto\"><path class=\"head\" d=\"M0 1 L10 5 L0 9 z\"/></marker></defs>";

/// Text that stands in markup.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

struct Canvas<'a> {
    trace: &'a Trace,
    layout: Layout,
    svg: String,
}

/// A message that left and was not yet seen to arrive: since which step it is on its way.
struct Travelling {
    envelope: Envelope,
    left: usize,
    arrived: bool,
}

#[derive(Clone, Copy)]
struct Point {
    x: f64,
    y: f64,
}

impl Canvas<'_> {
    fn draw(&mut self, element: &str) {
        self.svg += element;
        self.svg.push('\n');
    }

    fn labels_at(&self) -> f64 {
        LEFT + self.layout.lane * self.trace.servers.len() as f64 + 36.0
    }

    fn x(&self, id: NodeId) -> f64 {
        LEFT + self.layout.lane * (id.0 as f64 - 0.5)
    }

    fn y(step: usize) -> f64 {
        TOP + ROW * (step as f64 + 0.5)
    }

    fn rows(&mut self, width: f64) {
        for (at, step) in self.trace.steps.iter().enumerate() {
            let last = if at + 1 == self.trace.steps.len() && !self.trace.laws.is_empty() { " broken" } else { "" };
            let (y, title) = (TOP + ROW * at as f64, escape(&step.label));
            let number = format!("<text class=\"number\" x=\"{}\" y=\"{}\">{}</text>", LEFT - 12.0, y + 28.0, at + 1);
            self.draw(&format!(
                "<rect class=\"row{last}\" data-row=\"{}\" x=\"0\" y=\"{y}\" width=\"{width}\" height=\"{ROW}\"><title>{title}</title></rect>{number}",
                at + 1
            ));
        }
    }

    /// Each server's line, as thick and coloured as its role.
    fn lanes(&mut self) {
        for (id, server) in (1..).map(NodeId).zip(&self.trace.servers) {
            let x = self.x(id);
            self.draw(&format!("<text class=\"server\" x=\"{x}\" y=\"22\">{server}</text>"));
            // Again at the end, for whoever has scrolled there.
            let end = TOP + ROW * self.trace.steps.len() as f64 + 28.0;
            if self.trace.steps.len() > 6 {
                self.draw(&format!("<text class=\"server\" x=\"{x}\" y=\"{end}\">{server}</text>"));
            }
            let mut from = TOP - 16.0;
            for at in 0..=self.trace.steps.len() {
                let to = if at == self.trace.steps.len() { Self::y(at) - ROW / 2.0 + 10.0 } else { Self::y(at) };
                let role = word(self.trace.state(at), "role", server);
                self.draw(&format!("<line class=\"lane {role}\" x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{to}\"/>"));
                from = to;
            }
        }
    }

    fn messages(&mut self) {
        let mut travelling: Vec<Travelling> = Vec::new();
        let trace = self.trace;
        for (at, step) in trace.steps.iter().enumerate() {
            match &step.happening {
                Happening::DropMessage(envelope) => {
                    if let Some(place) = travelling.iter().position(|each| each.envelope == *envelope) {
                        let lost = travelling.remove(place);
                        self.arrow(&lost, at, "lost");
                    }
                }
                Happening::Step { input, stays, sent, .. } => {
                    if let Input::Event(Event::Receive(envelope)) = input
                        && let Some(place) = travelling.iter().position(|each| each.envelope == *envelope)
                    {
                        self.arrow(&travelling[place], at, "");
                        if *stays {
                            travelling[place].arrived = true;
                        } else {
                            travelling.remove(place);
                        }
                    }
                    for (envelope, fate) in sent {
                        self.leave(&mut travelling, envelope, *fate, at);
                    }
                }
            }
        }
        for each in travelling.iter().filter(|each| !each.arrived) {
            self.stub(&each.envelope, each.left, "waiting");
        }
    }

    fn leave(&mut self, travelling: &mut Vec<Travelling>, envelope: &Envelope, fate: Fate, at: usize) {
        match fate {
            Fate::Lost => self.stub(envelope, at, "lost"),
            Fate::Dead => self.stub(envelope, at, "dead"),
            Fate::OnItsWay if travelling.iter().any(|each| each.envelope == *envelope) => {}
            Fate::OnItsWay => travelling.push(Travelling { envelope: envelope.clone(), left: at, arrived: false }),
        }
    }

    fn way(&self, envelope: &Envelope, left: usize, arrived: usize) -> (Point, Point) {
        let (from, to) = (Point { x: self.x(envelope.from), y: Self::y(left) }, self.x(envelope.to));
        (from, Point { x: to, y: Self::y(arrived) })
    }

    fn arrow(&mut self, travelling: &Travelling, arrived: usize, fate: &str) {
        let (from, to) = self.way(&travelling.envelope, travelling.left, arrived);
        let (class, title) = (family(&travelling.envelope), escape(&words::message(&travelling.envelope)));
        let length = (to.x - from.x).hypot(to.y - from.y);
        let along = |distance: f64| Point {
            x: from.x + (to.x - from.x) * distance / length,
            y: from.y + (to.y - from.y) * distance / length,
        };
        let lost = fate == "lost";
        let (start, end) = (along(MARK), along(if lost { length * 0.62 } else { length - MARK }));
        let head = if lost { cross(end) } else { String::new() };
        let marker = if lost { "" } else { " marker-end=\"url(#head)\"" };
        self.draw(&format!(
            "<g class=\"message {class} {fate}\"><title>{title}</title><line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"{marker}/>\
             <line class=\"grip\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>{head}</g>",
            start.x, start.y, end.x, end.y, start.x, start.y, end.x, end.y
        ));
    }

    /// A message that left and does not arrive within the picture.
    fn stub(&mut self, envelope: &Envelope, left: usize, fate: &str) {
        let (from, to) = self.way(envelope, left, left);
        // Flat, so as not to lie on the arrow of another message of the same step.
        let (reach, dip) = if fate == "waiting" { (0.42, 0.36) } else { (0.34, 0.08) };
        let side = (to.x - from.x).signum();
        // The nearer half of a lane is enough to tell the direction, whoever it is for.
        let lanes = ((to.x - from.x).abs() / self.layout.lane).sqrt();
        let end = Point { x: from.x + side * self.layout.lane * reach * lanes, y: from.y + ROW * dip };
        let head = match fate {
            "lost" => cross(end),
            "waiting" => format!("<circle class=\"end\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>", end.x, end.y),
            _ => String::new(),
        };
        let said = match fate {
            "lost" => "lost: no room among the messages on their way",
            "waiting" => "still on its way in the end",
            _ => "its receiver can have no use for it",
        };
        let (class, title) = (family(envelope), escape(&format!("{}: {said}", words::message(envelope))));
        self.draw(&format!(
            "<g class=\"message {class} {fate}\"><title>{title}</title><line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>{head}</g>",
            from.x + side * MARK, from.y + MARK * dip, end.x, end.y
        ));
    }

    /// What happened at a server: its shape says what, its colour as what.
    fn mark(&mut self, at: usize) {
        let step = &self.trace.steps[at];
        let Happening::Step { server: id, input, .. } = &step.happening else { return };
        let (x, y, server) = (self.x(*id), Self::y(at), words::node(*id));
        let role = word(&step.after, "role", &server);
        let shape = match input {
            Input::Crash { .. } | Input::Wipe | Input::BackUp | Input::RollBack => {
                format!("<path class=\"crash\" d=\"M{} {y} m-8 -8 l16 16 m0 -16 l-16 16\"/>", x)
            }
            Input::Event(event) => match event.transition() {
                Transition::Persisted => {
                    format!("<rect x=\"{}\" y=\"{}\" width=\"11\" height=\"11\"/>", x - 5.5, y - 5.5)
                }
                Transition::ClientRequest
                | Transition::ReadRequest
                | Transition::LeaseReadRequest
                | Transition::FollowerReadRequest
                | Transition::StepDown
                | Transition::TransferLeadership => {
                    format!("<path d=\"M{x} {y} m0 -8 l8 8 l-8 8 l-8 -8 z\"/>")
                }
                Transition::ElectionTimeout
                | Transition::MinimumElectionTimeout
                | Transition::HeartbeatTimeout
                | Transition::QuorumCheckTimeout
                | Transition::LeaseTimeout
                | Transition::TransferTimeout => {
                    format!(
                        "<circle class=\"timeout\" cx=\"{x}\" cy=\"{y}\" r=\"7\"/><path class=\"hand\" d=\"M{x} {y} v-4.5 m0 4.5 h3.5\"/>"
                    )
                }
                _ => format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"6\"/>"),
            },
        };
        let title = escape(&format!("{}\n\n{}", step.label, server_state(&step.after, &server)));
        self.draw(&format!("<g class=\"mark {role}\" data-row=\"{}\"><title>{title}</title>{shape}</g>", at + 1));
        self.note(at, *id);
    }

    /// A new role or term, beside the mark.
    fn note(&mut self, at: usize, id: NodeId) {
        let server = words::node(id);
        let (before, after) = (self.trace.state(at), self.trace.state(at + 1));
        let same = |name: &str| of_server(before, name, &server) == of_server(after, name, &server);
        let mut lines = Vec::new();
        if !same("role") {
            lines.push(word(after, "role", &server));
        }
        if !same("currentTerm") {
            lines.push(format!("term {}", word(after, "currentTerm", &server)));
        }
        if !same("commitIndex") && word(after, "commitIndex", &server) != "0" {
            lines.push(format!("commit {}", word(after, "commitIndex", &server)));
        }
        for (line, text) in lines.iter().enumerate() {
            let (x, y) = (self.x(id) + 11.0, Self::y(at) - 6.0 - 11.0 * (lines.len() - 1 - line) as f64);
            self.draw(&format!("<text class=\"note\" x=\"{x}\" y=\"{y}\">{text}</text>"));
        }
    }

    fn label(&mut self, at: usize) {
        let label = &self.trace.steps[at].label;
        let (name, rest) = label.split_once(['(', ' ']).unwrap_or((label, ""));
        let rest = rest.strip_suffix(')').unwrap_or(rest);
        let room = (self.layout.labels / 6.9) as usize;
        let arguments = if rest.chars().count() > room {
            rest.chars().take(room - 1).chain(['…']).collect::<String>()
        } else {
            rest.to_string()
        };
        let (x, y) = (self.labels_at(), Self::y(at));
        self.draw(&format!(
            "<text class=\"action\" x=\"{x}\" y=\"{}\">{}</text><text class=\"arguments\" x=\"{x}\" y=\"{}\">{}</text>",
            y - 3.0,
            escape(name),
            y + 12.0,
            escape(&arguments)
        ));
    }
}

fn cross(at: Point) -> String {
    format!("<path class=\"cross\" d=\"M{:.1} {:.1} m-5 -5 l10 10 m0 -10 l-10 10\"/>", at.x, at.y)
}

fn word(state: &Variables, name: &str, server: &str) -> String {
    of_server(state, name, server).map_or_else(String::new, words::value)
}

fn family(envelope: &Envelope) -> &'static str {
    match envelope.message {
        Message::PreVoteRequest(_) => "pre-vote",
        Message::PreVoteResponse(_) => "pre-vote response",
        Message::RequestVoteRequest(_) => "vote",
        Message::RequestVoteResponse(_) => "vote response",
        Message::AppendEntriesResponse(_) => "append response",
        _ => "append",
    }
}

/// All of one server's state, a variable a line.
fn server_state(state: &Variables, server: &str) -> String {
    let line = |name: &&str| {
        let value: &Value = of_server(state, name, server)?;
        Some(format!("{name}: {}", words::value(value)))
    };
    per_server(state).iter().filter_map(line).collect::<Vec<_>>().join("\n")
}
