//! A command of several kinds of servers: each kind is planned on the devices that the kinds before it leave.

use std::fmt::Write as _;
use std::process::ExitCode;

use playhouse_planner::dialect::Servers;
use playhouse_planner::{Hardware, Plan, Serving};
use serde::Serialize;

use super::said::Said;
use super::{Asked, PlanArgs, Words, planned, sources, written};
use crate::error::CliError;

/// The answer for all kinds of servers.
#[derive(Serialize)]
struct Answers {
    servers: Vec<Answer>,
}

/// The answer for one kind of servers.
#[derive(Serialize)]
struct Answer {
    section: &'static str,
    count: u32,
    #[serde(flatten)]
    layout: Layout,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Layout {
    /// The plan of all servers of the kind, each a replica.
    Planned(Box<Plan>),
    /// The command of one of them.
    Written(Words),
}

/// Plans each kind of servers, or writes the command of one server of each.
pub(super) fn run(
    args: &PlanArgs,
    servers: Vec<Servers>,
    said: &mut Said,
) -> Result<ExitCode, CliError> {
    args.no_picture("a plan of several kinds of servers")?;
    if args.goal.is_some() {
        return Err(CliError::usage("--goal asks for a layout, and the command gives one"));
    }
    let mut hardware = args.hardware.as_deref().map(sources::hardware).transpose()?;
    let mut answers = Answers { servers: Vec::new() };
    for Servers { section, count, reading } in servers {
        let asked = Asked::new(args, reading, hardware.take(), Serving::default())?;
        if let Some(refused) = asked.refused(args, said)? {
            return Ok(refused);
        }
        let layout = match args.to {
            Some(target) => match written(args, target, &asked.reading, &asked.setting, said)? {
                Ok(words) => Layout::Written(words),
                Err(refused) => return Ok(refused),
            },
            None => {
                let mut spec = asked.reading.spec.clone();
                spec.data = spec.data.saturating_mul(count);
                match planned(args, &spec, &asked, said)? {
                    Ok(plan) => Layout::Planned(Box::new(plan)),
                    Err(refused) => return Ok(refused),
                }
            }
        };
        hardware = left(asked.setting.hardware, &layout);
        answers.servers.push(Answer { section, count, layout });
    }
    said.answer(&answers, || answers.text())
}

/// Returns the devices that the layout leaves.
fn left(hardware: Option<Hardware>, layout: &Layout) -> Option<Hardware> {
    match layout {
        Layout::Planned(plan) => Some(hardware?.left(plan.placement.as_ref()?)),
        Layout::Written(_) => hardware,
    }
}

// === impl Answers ===

impl Answers {
    fn text(&self) -> String {
        let mut text = String::new();
        for Answer { section, count, layout } in &self.servers {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}# {section}: {count}");
            match layout {
                Layout::Planned(plan) => text += &plan.to_string(),
                Layout::Written(words) => text += &words.text(),
            }
        }
        text
    }
}
