//! `pglull top`: pools, clients, servers and windows while they move.
//!
//! A task looks over the console again and again, and goes on trying when it cannot; keys and looks meet in [`state`], and
//! [`frame`] draws. Both are pure. The terminal is given back however this ends.

mod frame;
mod look;
mod screen;
mod state;
mod views;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::apply::Task;
use super::args::{TopArgs, TopView};
use super::live::Style;
use super::term::{colours, out, width_out};
use super::{FAILED, Interrupts, Site, USAGE, complain, err};
use frame::Paper;
pub(crate) use frame::listing;
use look::{Looked, look_at, look_once};
use screen::Screen;
use state::{Next, State};

/// `pglull top`.
pub async fn top(args: TopArgs) -> ExitCode {
    let site = Site::find(&args.console);
    let mut state = State::new(args.view, args.filter.clone(), Duration::from_secs_f64(args.every));
    if let Some(column) = &args.sort
        && let Err(known) = state.sort_by(column)
    {
        err(&format!("pglull: there is no column {column}: sort by one of {}\n", known.join(", ")));
        return ExitCode::from(USAGE);
    }
    if args.json || args.once {
        return once(&site, &state, args.json).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        err("pglull: top needs a terminal: --once prints one frame, --json one object\n");
        return ExitCode::from(USAGE);
    }
    match watch_on(site, state).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            err(&format!("pglull: the terminal cannot be used: {error}\n"));
            ExitCode::from(FAILED)
        }
    }
}

async fn once(site: &Site, state: &State, json: bool) -> ExitCode {
    let wanted = if json { &[TopView::Clients, TopView::Servers][..] } else { &[state.view] };
    match look_once(site, wanted).await {
        Ok(data) if json => out(&format!("{}\n", data.json())),
        Ok(data) => {
            let paper = Paper { width: width_out(), height: usize::MAX, style: Style::Plain };
            let looked = Looked { data: Some(data), trouble: None };
            let lines = frame::frame(&looked, state, &site.endpoint.to_string(), paper);
            out(&format!("{}\n", lines.join("\n")));
        }
        Err(error) => return complain(&error),
    }
    ExitCode::SUCCESS
}

/// Draws until somebody has seen enough.
async fn watch_on(site: Site, mut state: State) -> std::io::Result<()> {
    let place = site.endpoint.to_string();
    let (wanted, wants) = watch::channel((state.view, state.every));
    let (tell, mut seen) = watch::channel(Looked::default());
    let _looking = Task(tokio::spawn(look_at(site, wants, tell)));
    let mut interrupts = Interrupts::new()?;
    let mut screen = Screen::take()?;
    let mut events = crossterm::event::EventStream::new();
    let style = if colours() { Style::Ansi } else { Style::Plain };
    loop {
        {
            let looked = seen.borrow_and_update();
            let (width, height) = screen.size();
            screen.draw(&frame::frame(&looked, &state, &place, Paper { width, height, style }))?;
        }
        let next = tokio::select! {
            () = interrupts.next() => return Ok(()),
            event = events.next() => match event {
                Some(event) => screen::key(&event?).map_or(Next::Draw, |key| state.key(key)),
                // The terminal has gone.
                None => return Ok(()),
            },
            told = seen.changed() => {
                if told.is_err() {
                    return Ok(());
                }
                if state.still { Next::Nothing } else { Next::Draw }
            }
        };
        match next {
            Next::Quit => return Ok(()),
            Next::Look => drop(wanted.send_replace((state.view, state.every))),
            Next::Draw | Next::Nothing => {}
        }
    }
}
