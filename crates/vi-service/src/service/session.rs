//! One client as the service has it.

use crate::ViId;
use crate::adapter::{Change, Lane};
use crate::news::NewsWriter;
use crate::protocol::{Notice, Socket};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vi::Bell;
use vi::lane::FilterId;

/// Notices that wait for a client which does not read. With more of them it is sent away.
const QUEUED: usize = 4096;

/// A notice that waits for room in the socket.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
    about: Option<Subject>,
    /// The client has not heard of that before.
    begins: bool,
}

/// What comes and goes so often that a client which is slow need not hear of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    LaneToSendOn(Lane),
    Filter(u16),
}

/// What a notice is about, and whether it begins that or ends it.
fn subject(notice: &Notice) -> (Option<Subject>, bool, bool) {
    match notice {
        Notice::MaySend { lane, .. } => (Some(Subject::LaneToSendOn(*lane)), true, false),
        Notice::NoMoreSending(lane) => (Some(Subject::LaneToSendOn(*lane)), false, true),
        Notice::Filters(Change::Add(entry)) => (Some(Subject::Filter(entry.id)), true, false),
        Notice::Filters(Change::Members { id, .. }) => (Some(Subject::Filter(*id)), false, false),
        Notice::Filters(Change::Remove(id)) => (Some(Subject::Filter(*id)), false, true),
        // What was sent on a lane to receive from is delivered, however late.
        _ => (None, false, false),
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) socket: Socket,
    /// `None` until it has said hello.
    pub(super) member: Option<Member>,
    queue: VecDeque<Waiting>,
    /// Why it is to be sent away.
    pub(super) ended: Option<String>,
}

/// A client that has an interface.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) vi: ViId,
    pub(super) name: String,
    pub(super) set: Option<u32>,
    pub(super) filters: Vec<FilterId>,
    /// Wakes it.
    pub(super) bell: Bell,
    /// What its lanes to send on are rung by: for whom.
    pub(super) rung: Vec<(Lane, ViId, Bell)>,
    pub(super) news: NewsWriter,
}

impl Member {
    /// A fresh one, and what it is sent with its welcome: what its bell waits on, and the page of its news.
    pub(super) fn new(vi: ViId, name: String) -> io::Result<(Self, [OwnedFd; 2])> {
        let (bell, waits) = Bell::divided()?;
        let (news, page) = NewsWriter::new()?;
        let files = [waits.as_fd().try_clone_to_owned()?, page];
        let (filters, rung) = (Vec::new(), Vec::new());
        Ok((Self { vi, name, set: None, filters, bell, rung, news }, files))
    }
}

impl Session {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, member: None, queue: VecDeque::new(), ended: None }
    }

    pub(super) fn end(&mut self, why: impl Into<String>) {
        self.ended.get_or_insert_with(|| why.into());
    }

    pub(super) fn vi(&self) -> Option<ViId> {
        self.member.as_ref().map(|member| member.vi)
    }

    pub(super) fn waits_for_room(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Descriptors that wait with notices.
    pub(super) fn waiting_files(&self) -> usize {
        self.queue.iter().map(|waiting| waiting.files.len()).sum()
    }

    /// It does not read, and what waits for it costs others: nothing waits any more.
    pub(super) fn give_up(&mut self) {
        self.queue.clear();
        self.end("it does not read what it is told");
    }

    /// Says something; what finds no room waits. What comes and goes while it waits is never said.
    pub(super) fn say(&mut self, notice: &Notice, files: Vec<OwnedFd>) {
        let (about, begins, ends) = subject(notice);
        if ends && self.queue.iter().any(|waiting| waiting.begins && waiting.about == about) {
            self.queue.retain(|waiting| waiting.about != about);
            return;
        }
        match serde_json::to_vec(notice) {
            Ok(bytes) if self.queue.len() < QUEUED => {
                self.queue.push_back(Waiting { bytes, files, about, begins });
            }
            Ok(_) => self.give_up(),
            Err(error) => self.end(error.to_string()),
        }
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        let mut sent = false;
        while let Some(Waiting { bytes, files, .. }) = self.queue.front() {
            let files: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
            match self.socket.send_bytes(bytes, &files) {
                Ok(true) => sent = true,
                Ok(false) => break,
                Err(error) => {
                    // One that is gone is no offender.
                    self.end(if super::is_end(&error) { String::new() } else { error.to_string() });
                    return;
                }
            }
            self.queue.pop_front();
        }
        if sent && let Some(member) = &mut self.member {
            // After the message: who sees the number finds what it stands for.
            member.news.sent();
        }
    }
}
