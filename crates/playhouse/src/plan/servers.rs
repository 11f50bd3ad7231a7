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
struct SectionAnswers {
    servers: Vec<SectionAnswer>,
}

/// The answer for one kind of servers.
#[derive(Serialize)]
struct SectionAnswer {
    section: &'static str,
    count: u32,
    #[serde(flatten)]
    layout: SectionLayout,
}

#[derive(Serialize)]
#[serde(untagged)]
enum SectionLayout {
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
    let mut answers = SectionAnswers { servers: Vec::new() };
    for Servers { section, count, reading } in servers {
        let asked = Asked::new(args, reading, hardware.take(), Serving::default())?;
        if let Some(refused) = asked.refused(args, said)? {
            return Ok(refused);
        }
        let layout = match args.to {
            Some(target) => match written(args, target, &asked.reading, &asked.setting, said)? {
                Ok(words) => SectionLayout::Written(words),
                Err(refused) => return Ok(refused),
            },
            None => {
                let mut spec = asked.reading.spec.clone();
                spec.data = spec.data.saturating_mul(count);
                match planned(args, &spec, &asked, said)? {
                    Ok(plan) => SectionLayout::Planned(Box::new(plan)),
                    Err(refused) => return Ok(refused),
                }
            }
        };
        hardware = left(asked.setting.hardware, &layout);
        answers.servers.push(SectionAnswer { section, count, layout });
    }
    said.answer(&answers, || answers.text())
}

/// Returns the devices that the layout leaves.
fn left(hardware: Option<Hardware>, layout: &SectionLayout) -> Option<Hardware> {
    match layout {
        SectionLayout::Planned(plan) => Some(hardware?.left(plan.placement.as_ref()?)),
        SectionLayout::Written(_) => hardware,
    }
}

// === impl SectionAnswers ===

impl SectionAnswers {
    fn text(&self) -> String {
        let mut text = String::new();
        for SectionAnswer { section, count, layout } in &self.servers {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}# {section}: {count}");
            match layout {
                SectionLayout::Planned(plan) => text += &plan.to_string(),
                SectionLayout::Written(words) => text += &words.text(),
            }
        }
        text
    }
}
