//! Each request to the service, each answer to the request that waits for it.

use std::collections::BTreeMap;
use std::time::Instant;

use iommu_engine::platform::{Platform, RunId};
use iommu_service::{Answer, Awaited, Caller, Completed, HandleId, Outcome, RequestId, Service};
use libdma::Error;

use super::folder::Folder;
use super::open::{Open, OpenHandles};
use super::request::{Client, MapRequest, Reply, Request, Shape};

/// The errno of what should have been a folder, `ENOTDIR`. The protocol has no name for it.
const NOT_A_FOLDER: Error = Error::Other(20);

/// The number of the scheme's root, which is the first handle of a service: the scheme has it before there is
/// a service.
pub const ROOT: usize = HandleId::FIRST.0 as usize;

/// Where all requests come in and all answers go out.
///
/// A request comes with a tag, by which the kernel knows it, and the tag goes out with the answer: at once, or
/// from [`poll`](Self::poll). It cannot be copied, so that nothing is answered twice.
#[derive(Debug)]
pub struct Desk<P, T> {
    service: Service<P>,
    open: OpenHandles,
    waiting: BTreeMap<RequestId, Waiting<T>>,
}

/// A tag and what it is answered with.
pub type Answered<T> = (T, Result<Reply, Error>);

/// A request that hardware must confirm.
#[derive(Debug)]
struct Waiting<T> {
    tag: T,
    /// What to remember of the handle that it is answered with, if it is with one.
    handle: Option<Open>,
}

/// What came of a request.
enum Served {
    Now(Reply),
    /// An answer later; and what to remember of the handle that it will be, if it will be one.
    Later(RequestId, Option<Open>),
}

impl<P: Platform, T> Desk<P, T> {
    /// A desk before this service.
    pub fn new(service: Service<P>) -> Self {
        Self { service, open: OpenHandles::default(), waiting: BTreeMap::new() }
    }

    /// The service, to look at.
    pub fn service(&self) -> &Service<P> {
        &self.service
    }

    /// The service, to change.
    pub fn service_mut(&mut self) -> &mut Service<P> {
        &mut self.service
    }

    /// The service, when nobody comes to the desk any more.
    pub fn into_service(self) -> Service<P> {
        self.service
    }

    /// Opens the scheme's root, for whoever registers its name and holds it from then on: its number, which is
    /// [`ROOT`] as long as nothing else has been asked of the desk.
    pub fn root(&mut self) -> usize {
        let client = Client { uid: 0, process: None };
        let open =
            Open { path: Folder::Root.join(""), shape: Shape::Folder, client, unused_since: None };
        let handle = self.service.first_root();
        self.open.insert(handle, open);
        handle.0 as usize
    }

    /// Takes a request; its answer, unless that comes from [`poll`](Self::poll).
    pub fn serve(
        &mut self,
        tag: T,
        request: Request,
        client: Client,
        now: Instant,
    ) -> Option<Answered<T>> {
        match self.act(request, client, now) {
            Ok(Served::Now(reply)) => Some((tag, Ok(reply))),
            Ok(Served::Later(request, handle)) => {
                self.waiting.insert(request, Waiting { tag, handle });
                None
            }
            Err(error) => Some((tag, Err(error))),
        }
    }

    /// Gives a handle that waits for it its memory; the answer, unless that comes from [`poll`](Self::poll).
    ///
    /// `take` has the platform take the memory over that came with the request, once it is known that the handle may
    /// have it, and `give_back` returns it to where it came from if the handle does not get it.
    pub fn supply(
        &mut self,
        tag: T,
        handle: usize,
        take: impl FnOnce(&mut P, Awaited) -> Result<RunId, Error>,
        give_back: impl FnOnce(&mut P, RunId, Awaited),
    ) -> Option<Answered<T>> {
        let supply = || {
            let (handle, _) = self.open.used(handle)?;
            let awaited = self.service.awaited(handle)?;
            let run = take(self.service.platform_mut(), awaited)?;
            self.service.supply(handle, run).map_err(|(error, is_out_of_reach)| {
                if is_out_of_reach {
                    give_back(self.service.platform_mut(), run, awaited);
                }
                error
            })
        };
        match supply() {
            Ok(Outcome::Done(())) => Some((tag, Ok(Reply::Done))),
            Ok(Outcome::Pending(request)) => {
                self.waiting.insert(request, Waiting { tag, handle: None });
                None
            }
            Err(error) => Some((tag, Err(error))),
        }
    }

    /// Goes on with what hardware does; the answers of those who have waited for it.
    pub fn poll(&mut self, now: Instant) -> Vec<Answered<T>> {
        let completed = self.service.poll();
        completed.into_iter().filter_map(|completed| self.complete(completed, now)).collect()
    }

    /// The numbers of the handles that have become readable, for the kernel to tell whoever waits for it.
    pub fn take_readable(&mut self) -> Vec<usize> {
        self.service.take_readable().into_iter().map(|handle| handle.0 as usize).collect()
    }

    /// Whether there are handles that [`close_lost`](Self::close_lost) may find one day that nobody has.
    pub fn may_lose(&self) -> bool {
        self.open.any_unused()
    }

    /// Whether hardware is being waited for, so that [`poll`](Self::poll) is due soon.
    pub fn is_waiting(&self) -> bool {
        self.service.is_waiting()
    }

    /// The last descriptor of this number and its last mapping are gone, or nobody has ever got it.
    pub fn close(&mut self, number: usize) {
        if let Some(handle) = self.open.remove(number) {
            self.service.close(handle);
        }
    }

    /// Closes the handles that nobody has, as far as can be known; see [`OpenHandles::lost`].
    pub fn close_lost(&mut self, now: Instant, has_ended: impl Fn(u32) -> bool) {
        for number in self.open.lost(now, has_ended) {
            self.close(number);
        }
    }

    fn complete(&mut self, completed: Completed, now: Instant) -> Option<Answered<T>> {
        let Completed { request, result } = completed;
        let Waiting { tag, handle } = self.waiting.remove(&request)?;
        let result = match (result, handle) {
            (Ok(Answer::Handle(id)), Some(open)) => Ok(self.hand_over(id, open, now)),
            (Ok(Answer::Payload(payload)), _) => Ok(Reply::Bytes(payload)),
            // Only requests that make one are answered with one.
            (Ok(Answer::Handle(id)), None) => {
                self.service.close(id);
                Err(Error::BadValue)
            }
            (Err(error), _) => Err(error),
        };
        Some((tag, result))
    }

    fn act(&mut self, request: Request, client: Client, now: Instant) -> Result<Served, Error> {
        let reply = match request {
            Request::Open { folder, path, only_folder } => {
                return self.open_path(folder, &path, only_folder, client, now);
            }
            Request::Derive { handle, bytes } => return self.derive(handle, &bytes, client, now),
            Request::Call { handle, opcode, mut payload } => {
                let (handle, _) = self.open.used(handle)?;
                match self.service.call(handle, opcode, &mut payload)? {
                    Outcome::Pending(request) => return Ok(Served::Later(request, None)),
                    Outcome::Done(length) => {
                        payload.truncate(length);
                        Reply::Bytes(payload)
                    }
                }
            }
            Request::Read { handle, offset, bytes } => {
                let (handle, _) = self.open.used(handle)?;
                let mut text = vec![0; bytes];
                let length = self.service.read(handle, offset, &mut text)?;
                text.truncate(length);
                Reply::Bytes(text)
            }
            Request::Map { handle, mapping } => self.map(handle, mapping)?,
            Request::Stat(handle) => {
                let (handle, open) = self.open.used(handle)?;
                Reply::Shape(open.shape, self.service.length(handle).unwrap_or(0))
            }
            Request::Length(handle) => {
                let (handle, _) = self.open.used(handle)?;
                Reply::Length(self.service.length(handle)?)
            }
            Request::Path(handle) => {
                let (_, open) = self.open.used(handle)?;
                let scheme = libdma::protocol::path::SCHEME;
                Reply::Bytes(format!("/scheme/{scheme}/{}", open.path).into_bytes())
            }
            Request::List { handle, from } => {
                let (_, open) = self.open.used(handle)?;
                Reply::Entries { folder: open.folder().ok_or(NOT_A_FOLDER)?, from }
            }
            Request::Watch { handle, wanted } => {
                let (handle, _) = self.open.used(handle)?;
                Reply::Readable(self.service.watch(handle, wanted)?)
            }
            Request::Check(handle) => {
                self.open.used(handle)?;
                Reply::Done
            }
        };
        Ok(Served::Now(reply))
    }

    fn open_path(
        &mut self,
        folder: usize,
        path: &str,
        only_folder: bool,
        client: Client,
        now: Instant,
    ) -> Result<Served, Error> {
        let (directory, open) = self.open.used(folder)?;
        let path = open.folder().ok_or(Error::WrongHandleKind)?.join(path);
        self.open.check_room(client)?;
        if let Some(folder) = Folder::at(&path) {
            let (handle, open) = self.new_folder(folder, client, Some(now));
            return Ok(Served::Now(self.hand_over(handle, open, now)));
        }
        if only_folder {
            return Err(NOT_A_FOLDER);
        }
        let outcome = self.service.open(directory, &path, Caller { uid: client.uid })?;
        // For one that is opened another may have been closed.
        self.open.forget(&path, |handle| self.service.is_open(handle));
        let is_device = path.contains('/');
        let shape = if is_device { Shape::Object } else { Shape::Text };
        let open = Open { path, shape, client, unused_since: Some(now) };
        Ok(self.new_handle(outcome, open, now))
    }

    fn derive(
        &mut self,
        handle: usize,
        bytes: &[u8],
        client: Client,
        now: Instant,
    ) -> Result<Served, Error> {
        let (handle, parent) = self.open.used(handle)?;
        let open = Open { client, unused_since: Some(now), ..parent.clone() };
        self.open.check_room(client)?;
        let outcome = self.service.derive(handle, bytes)?;
        Ok(self.new_handle(outcome, open, now))
    }

    fn map(&mut self, handle: usize, mapping: MapRequest) -> Result<Reply, Error> {
        let (handle, _) = self.open.used(handle)?;
        mapping.check()?;
        let MapRequest { offset, bytes, write, .. } = mapping;
        let grant = self.service.grant(handle, offset, bytes, write)?;
        Ok(Reply::Memory { run: grant.run, offset })
    }

    fn new_folder(
        &mut self,
        folder: Folder,
        client: Client,
        unused_since: Option<Instant>,
    ) -> (HandleId, Open) {
        let open = Open { path: folder.join(""), shape: Shape::Folder, client, unused_since };
        (self.service.root(), open)
    }

    fn new_handle(&mut self, outcome: Outcome<HandleId>, open: Open, now: Instant) -> Served {
        match outcome {
            Outcome::Done(handle) => Served::Now(self.hand_over(handle, open, now)),
            Outcome::Pending(request) => Served::Later(request, Some(open)),
        }
    }

    fn hand_over(&mut self, handle: HandleId, open: Open, now: Instant) -> Reply {
        let positioned = open.shape != Shape::Object;
        self.open.insert(handle, Open { unused_since: Some(now), ..open });
        Reply::Handle { number: handle.0 as usize, positioned }
    }
}
