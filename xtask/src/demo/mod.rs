//! `cargo xtask demo`: a playground with clients on it, shown live or put through one drill.

mod control;
mod screen;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{MissedTickBehavior, interval};

use self::control::{Control, Key};
use self::screen::Screen;
use crate::drill::clients::Clients;
use crate::drill::{self, Drill, Plan};
use crate::install::Servers;
use crate::interrupt::told_to_stop;
use crate::playground::{Options, Playground, PlaygroundError};
use crate::programs::Programs;

/// Time between two pictures.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// Lines of each log shown when something failed.
const TAIL: usize = 20;

/// A drill without the picture.
#[derive(Clone, Copy, Debug)]
pub struct Headless {
    /// Which one.
    pub drill: Drill,
    /// How often.
    pub repeat: u32,
    /// Whether to print JSON.
    pub json: bool,
}

/// Plays a drill and prints its figures on standard output; everything else goes to standard error.
pub async fn run_drill(
    headless: &Headless,
    options: &Options,
    programs: &Programs,
    servers: &Servers,
) -> Result<(), String> {
    let say = |line: &str| eprintln!("  {line}");
    let work = async {
        let mut playground = Playground::start(options, programs, servers, &say).await?;
        let played = repeat(headless, &mut playground, &say).await;
        Ok(match played {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("{error}\n{}", playground.log_tails(TAIL))),
        })
    };
    let done: Result<Result<(), String>, PlaygroundError> = tokio::select! {
        done = work => done,
        () = told_to_stop() => return Err("stopped".to_owned()),
    };
    done.map_err(|e| e.to_string())?
}

async fn repeat(
    headless: &Headless,
    playground: &mut Playground,
    say: &(dyn Fn(&str) + Sync),
) -> Result<(), PlaygroundError> {
    let mut outages = Vec::new();
    for run in 1..=headless.repeat {
        say(&format!("run {run} of {}", headless.repeat));
        let report = drill::run(playground, headless.drill, Plan::default(), say).await?;
        outages.push(report.outage_ms);
        if headless.json {
            let line = serde_json::to_string(&report).map_err(|e| PlaygroundError::Refused(e.to_string()))?;
            println!("{line}");
        } else {
            println!(
                "{:?}: outage {} ms, {} failed statements, {} failed connects, {} failed reads, {} of {} rows \
                 lost, two primaries for {} ms",
                report.drill,
                report.outage_ms,
                report.client_errors,
                report.failed_connects,
                report.read_errors,
                report.lost_rows,
                report.acknowledged,
                report.dual_primary_ms,
            );
        }
    }
    if let Some((least, median, most)) = spread(&mut outages) {
        say(&format!("outage of {} runs: median {median} ms ({least} to {most})", outages.len()));
    }
    Ok(())
}

/// Least, median and greatest.
fn spread(values: &mut [f64]) -> Option<(f64, f64, f64)> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    let median = (values.get(low)? + values.get(high)?) / 2.0;
    Some((*values.first()?, (median * 10.0).round() / 10.0, *values.last()?))
}

/// Shows the playground until the user has seen enough.
pub async fn show(options: &Options, programs: &Programs, servers: &Servers) -> Result<(), String> {
    eprintln!("starting a cluster on this machine (Ctrl-C ends it and leaves nothing behind)");
    let say = |line: &str| eprintln!("  {line}");
    let start = async {
        let playground = Playground::start(options, programs, servers, &say).await?;
        drill::create_table(&playground).await?;
        Ok::<_, PlaygroundError>(playground)
    };
    let playground = tokio::select! {
        started = start => started.map_err(|e| e.to_string())?,
        () = told_to_stop() => return Err("stopped while starting; nothing is left".to_owned()),
    };
    let clients = Clients::start(&playground);
    let ended = if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
        live(playground, &clients).await
    } else {
        plain(playground, &clients).await
    };
    let ledger = clients.stop().await;
    eprintln!(
        "the demo has ended; {} writes were acknowledged; nothing is left behind",
        ledger.acknowledged()
    );
    ended
}

/// The picture, redrawn in place.
async fn live(playground: Playground, clients: &Clients) -> Result<(), String> {
    let sites = playground.sites();
    let mut control = Control::new(playground);
    let mut screen = Screen::open().map_err(|e| format!("the terminal: {e}"))?;
    let mut keys = crossterm::event::EventStream::new();
    let mut redraw = interval(REDRAW_EVERY);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let stop = told_to_stop();
    tokio::pin!(stop);
    let ended = loop {
        tokio::select! {
            () = &mut stop => break Ok(()),
            event = keys.next() => match event {
                Some(Ok(event)) => match control::key(&event) {
                    Some(Key::Quit) => break Ok(()),
                    Some(Key::Do(wish)) => control.wish(wish),
                    None => {}
                },
                Some(Err(error)) => break Err(format!("the terminal: {error}")),
                None => break Ok(()),
            },
            _ = redraw.tick() => {
                let picture = sites.look().await;
                control.note(&picture);
                let frame = view::frame(&picture, clients, &control);
                if let Err(error) = screen.draw(&frame) {
                    break Err(format!("the terminal: {error}"));
                }
            }
        }
    };
    drop(screen);
    control.close().await;
    ended
}

/// One line a second, for pipes and logs.
async fn plain(playground: Playground, clients: &Clients) -> Result<(), String> {
    let sites = playground.sites();
    let mut control = Control::new(playground);
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let stop = told_to_stop();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = every.tick() => {
                let picture = sites.look().await;
                control.note(&picture);
                println!("{}", view::line(&view::frame(&picture, clients, &control)));
            }
        }
    }
    control.close().await;
    Ok(())
}
