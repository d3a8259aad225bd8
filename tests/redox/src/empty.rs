//! A scheme whose calls do nothing: what the system takes for a request, and no scheme can do without.

use agent::failure::Outcome;

/// The first argument that asks to serve it. Its name follows.
pub(crate) const EMPTY: &str = "empty-scheme";

/// What is said when it serves.
const SERVES: &str = "it serves";

#[cfg(target_os = "redox")]
pub(crate) use redox::{measure, serve};

#[cfg(target_os = "redox")]
mod redox {
    use std::process;

    use agent::failure::Failure;
    use agent::measure::pairs;
    use agent::programs::Program;
    use agent::requests::{BATCHES, SHORTEST, lengths};
    use libredox::Fd;
    use libredox::call::{call_rw, getns, register_scheme_to_ns};
    use libredox::error::Result as SystemResult;
    use libredox::flag::{O_CLOEXEC, O_RDWR};
    use redox_scheme::scheme::{SchemeState, SchemeSync};
    use redox_scheme::{CallerCtx, OpenResult, RequestKind, SignalBehavior, Socket};
    use syscall::CallFlags;
    use syscall::schemev2::NewFdFlags;

    use super::{EMPTY, Outcome, SERVES};
    use crate::console::say;
    use crate::run::myself;

    /// The only number of a descriptor: what is opened is of no use.
    const ROOT: usize = 1;

    struct Empty;

    impl SchemeSync for Empty {
        fn openat(
            &mut self,
            _: usize,
            _: &str,
            _: usize,
            _: u32,
            _: &CallerCtx,
        ) -> syscall::Result<OpenResult> {
            Ok(OpenResult::ThisScheme { number: ROOT, flags: NewFdFlags::empty() })
        }

        fn call(
            &mut self,
            _: usize,
            payload: &mut [u8],
            _: &[u64],
            _: &CallerCtx,
        ) -> syscall::Result<usize> {
            Ok(payload.len())
        }
    }

    /// Serves it by this name for good.
    pub(crate) fn serve(name: &str) -> Outcome {
        Ok(answer(name)?)
    }

    fn answer(name: &str) -> SystemResult<()> {
        let socket = Socket::create()?;
        register_scheme_to_ns(getns()?, name, socket.create_this_scheme_fd(0, ROOT, 0, 0)?)?;
        say(SERVES);
        let mut state = SchemeState::new();
        while let Some(request) = socket.next_request(SignalBehavior::Restart)? {
            if let RequestKind::Call(call) = request.kind() {
                let answer = call.handle_sync(&mut Empty, &mut state);
                socket.write_response(answer, SignalBehavior::Restart)?;
            }
        }
        Ok(())
    }

    /// Counts, and tells each figure when it is there.
    pub(crate) fn measure(mut tell: impl FnMut(String)) -> Outcome {
        let name = format!("iommu-empty-{}", process::id());
        let mut command = myself();
        command.args([EMPTY, &name]);
        let mut serving = Program::from_command(command)?;
        serving.wait_line(SERVES)?;
        let scheme = Fd::open(&format!("/scheme/{name}/"), O_RDWR | O_CLOEXEC, 0)?;
        let call = |payload: usize| -> Outcome {
            let mut payload = vec![0; payload];
            call_rw(scheme.raw(), &mut payload, CallFlags::empty(), &[0])?;
            Ok(())
        };
        tell(pairs("message/hello", || call(SHORTEST), |()| Ok::<_, Failure>(()))?);
        for batch in BATCHES {
            let [make, undo] = lengths(batch);
            tell(pairs(&format!("message/{batch}"), || call(make), |()| call(undo))?);
        }
        serving.kill()
    }
}

#[cfg(not(target_os = "redox"))]
pub(crate) use elsewhere::{measure, serve};

/// So that the rest is checked on other systems, too.
#[cfg(not(target_os = "redox"))]
mod elsewhere {
    use agent::failure::Failure;

    use super::{EMPTY, Outcome, SERVES};

    pub(crate) fn serve(name: &str) -> Outcome {
        Err(Failure(format!("{EMPTY}: {SERVES} {name} on Redox alone")))
    }

    pub(crate) fn measure(_: impl FnMut(String)) -> Outcome {
        Err(Failure("there are schemes on Redox alone".into()))
    }
}
