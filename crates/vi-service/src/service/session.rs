//! One client as the service has it.

use crate::ViId;
use crate::adapter::Lane;
use crate::news::NewsWriter;
use crate::protocol::{Notice, Socket};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use vi::Bell;
use vi::lane::FilterId;

/// Notices that wait for a client which does not read. With more of them it is sent away.
const QUEUED: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) socket: Socket,
    /// `None` until it has said hello.
    pub(super) member: Option<Member>,
    queue: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
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
        self.queue.iter().map(|(_, files)| files.len()).sum()
    }

    /// It does not read, and what waits for it costs others: nothing waits any more.
    pub(super) fn give_up(&mut self) {
        self.queue.clear();
        self.end("it does not read what it is told");
    }

    /// Says something; what finds no room waits.
    pub(super) fn say(&mut self, notice: &Notice, files: Vec<OwnedFd>) {
        match serde_json::to_vec(notice) {
            Ok(bytes) if self.queue.len() < QUEUED => self.queue.push_back((bytes, files)),
            Ok(_) => self.give_up(),
            Err(error) => self.end(error.to_string()),
        }
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        let mut sent = false;
        while let Some((bytes, files)) = self.queue.front() {
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
