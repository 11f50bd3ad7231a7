//! `playhouse top` shows the cluster on a terminal, once a second, with its throughput in that second.
//!
//! - **TOP-1** the terminal is restored, however the command ends (short of SIGKILL).
//! - **TOP-2** q, Escape and Ctrl-C leave at once, even while the head does not answer.
//! - **TOP-3** no line is wider than the terminal and no frame higher, whatever the head sends.
//! - **TOP-4** an unreachable head, once it was reached, is reported in a line at the bottom.

mod frame;
mod screen;

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::frame::{Sample, frame};
use self::screen::Screen;
use crate::admin::{Admin, AdminArgs};
use crate::error::CliError;
use crate::signals::Signals;
use crate::status::PERIOD;

/// The flags of `playhouse top`.
#[derive(clap::Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    admin: AdminArgs,
}

/// Shows the cluster until the user quits.
///
/// # Errors
/// Returns an error if there is no terminal, or the head cannot be reached.
pub(crate) async fn run(args: TopArgs) -> Result<ExitCode, CliError> {
    Screen::check()?;
    let admin = args.admin.open().await?;
    let first = Sample { at: Instant::now(), cluster: admin.cluster().await? };
    let failed = |why: io::Error| CliError::failure(format!("cannot handle signals: {why}"));
    let mut signals = Signals::install().map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let screen = Screen::enter()?;
    tokio::select! {
        _ = screen.left() => {}
        _ = signals.next() => {}
        _ = hangup.recv() => {}
        ended = show(&screen, &admin, first) => ended?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(screen: &Screen, admin: &Admin, first: Sample) -> Result<(), CliError> {
    let mut resized = signal(SignalKind::window_change())
        .map_err(|why| CliError::failure(format!("cannot follow the window's size: {why}")))?;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let (mut previous, mut current) = (first.clone(), first);
    let mut notice = None;
    loop {
        let (width, height) = screen.size();
        let rows = height.saturating_sub(usize::from(notice.is_some()));
        let text = frame(&previous, &current, width, rows);
        screen.draw(&text, notice.as_deref()).map_err(CliError::output)?;
        tokio::select! {
            _ = resized.recv() => continue,
            _ = ticks.tick() => {}
        }
        let at = Instant::now();
        match admin.cluster().await {
            Ok(cluster) => {
                previous = std::mem::replace(&mut current, Sample { at, cluster });
                notice = None;
            }
            Err(error) => notice = Some(error.text().lines().next().unwrap_or_default().to_owned()),
        }
    }
}
