//! Draws a frame on the terminal, and gives the terminal back whatever happens.

use std::io::{self, Stdout, stdout};

use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table};

use super::control::KEYS;
use super::view::{Frame, Member, Proxy, fare};

/// The terminal, taken over until this is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    pub(super) fn open() -> io::Result<Screen> {
        enable_raw_mode()?;
        // From here on `drop` gives it back, also when the next step fails.
        let screen = Screen { terminal: Terminal::new(CrosstermBackend::new(stdout()))? };
        execute!(stdout(), EnterAlternateScreen)?;
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            shown(panic);
        }));
        Ok(screen)
    }

    pub(super) fn draw(&mut self, frame: &Frame) -> io::Result<()> {
        draw(&mut self.terminal, frame)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        give_back();
    }
}

fn give_back() {
    let _ = disable_raw_mode();
    let _ = execute!(stdout(), LeaveAlternateScreen);
}

fn draw<B: Backend>(terminal: &mut Terminal<B>, frame: &Frame) -> Result<(), B::Error> {
    terminal
        .draw(|area| {
            let height = |rows: usize| Constraint::Length(u16::try_from(rows).unwrap_or(u16::MAX) + 3);
            let [members, proxies, clients, events, keys] = Layout::vertical([
                height(frame.members.len()),
                height(frame.proxies.len()),
                Constraint::Length(3),
                Constraint::Min(3),
                Constraint::Length(2),
            ])
            .areas(area.area());
            area.render_widget(members_table(frame), members);
            area.render_widget(proxies_table(frame), proxies);
            area.render_widget(clients_line(frame), clients);
            let happened: Vec<_> = frame.events.iter().map(|e| Line::raw(e.as_str())).collect();
            area.render_widget(
                Paragraph::new(happened).block(Block::bordered().title(" what happened ")),
                events,
            );
            area.render_widget(keys_line(), keys);
        })
        .map(drop)
}

fn members_table(frame: &Frame) -> Table<'_> {
    let header = ["Member", "Role", "State", "TL", "Lag", "Lease", "Sessions"];
    let widths = [
        Constraint::Length(8),
        Constraint::Length(13),
        Constraint::Fill(1),
        Constraint::Length(4),
        Constraint::Length(8),
        Constraint::Length(12),
        Constraint::Length(8),
    ];
    let title = format!(" members (lease time {} s) ", frame.ttl);
    table(header, frame.members.iter().map(member_row), widths, title)
}

fn member_row(m: &Member) -> Row<'_> {
    let cells = [
        m.name.clone(),
        m.role.clone(),
        m.state.clone(),
        m.timeline.clone(),
        m.lag.clone(),
        m.lease.clone(),
        m.sessions.to_string(),
    ];
    let color = match (m.leads, m.state.as_str()) {
        (true, _) => Color::Green,
        (false, "streaming" | "running") => Color::Reset,
        (false, _) => Color::Yellow,
    };
    Row::new(cells).style(Style::new().fg(color))
}

fn proxies_table(frame: &Frame) -> Table<'_> {
    let header = ["Proxy", "Writes go to", "Reads go to", "Sessions", "Held", "Last outage", "Proof"];
    let widths = [
        Constraint::Length(8),
        Constraint::Fill(1),
        Constraint::Length(14),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(12),
        Constraint::Length(16),
    ];
    table(header, frame.proxies.iter().map(proxy_row), widths, " proxies ".to_owned())
}

fn proxy_row(p: &Proxy) -> Row<'_> {
    let cells = [
        p.name.clone(),
        p.primary.clone(),
        p.reads.clone(),
        p.sessions.to_string(),
        p.held.to_string(),
        p.outage.clone(),
        p.proof.clone(),
    ];
    Row::new(cells)
}

fn table<'a, const N: usize>(
    header: [&'static str; N],
    rows: impl Iterator<Item = Row<'a>>,
    widths: [Constraint; N],
    title: String,
) -> Table<'a> {
    Table::new(rows, widths)
        .header(Row::new(header).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::bordered().title(title))
}

fn clients_line(frame: &Frame) -> Paragraph<'_> {
    let color = if frame.clients.waiting.is_some() { Color::Red } else { Color::Reset };
    let block = Block::bordered().title(" a client writing every 5 ms, another reading on new connections ");
    Paragraph::new(fare(&frame.clients)).style(Style::new().fg(color)).block(block)
}

fn keys_line() -> Paragraph<'static> {
    let key = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
    let spans = KEYS.iter().flat_map(|(letter, what, _)| {
        [Span::styled(format!(" {letter} "), key), Span::raw(format!(" {what} "))]
    });
    Paragraph::new(spans.collect::<Line<'_>>()).wrap(ratatui::widgets::Wrap { trim: false })
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn everything_fits_into_eighty_columns() {
        let frame = Frame {
            ttl: 10,
            members: vec![
                Member {
                    name: "pg1".to_owned(),
                    role: "primary".to_owned(),
                    leads: true,
                    ..Member::default()
                },
                Member { name: "pg2".to_owned(), state: "streaming".to_owned(), ..Member::default() },
            ],
            proxies: vec![Proxy { name: "proxy1".to_owned(), primary: "pg1".to_owned(), ..Proxy::default() }],
            events: vec!["1.0 s  pg1 leads".to_owned()],
            ..Frame::default()
        };
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
        draw(&mut terminal, &frame).expect("draws");
        let shown = terminal.backend().to_string();
        for text in ["lease time 10 s", "pg1", "streaming", "proxy1", "pg1 leads", "switch over", "quit"] {
            assert!(shown.contains(text), "{text} is missing in\n{shown}");
        }
    }
}
