//! R5: clients that ask for more than anybody can answer.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use libdma::Error;
use libdma::protocol::call::{Hello, Opcode};
use libdma::transport::packet::Kind;
use rustix::net::SocketType;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use zerocopy::IntoBytes;

use crate::raw::{answer, ask, connection, pair, request, send};
use crate::rig::{Daemon, eventually};
use crate::vendor::Vendor;

both! {
    r5_of_a_flood_one_request_of_each_handle_is_served_before_anothers,
    r5_a_client_that_never_reads_an_answer_takes_no_memory_and_nobodys_turn,
    r5_who_keeps_the_daemon_waiting_keeps_nobody_out_that_there_was_no_room_for,
}

/// Waits until the daemon does nothing more.
fn stop(daemon: &Daemon) {
    daemon.signal(Signal::STOP);
    let status = format!("/proc/{}/stat", daemon.pid());
    eventually(|| fs::read_to_string(&status).unwrap().contains(") T ").then_some(()));
}

fn r5_of_a_flood_one_request_of_each_handle_is_served_before_anothers(vendor: Vendor) {
    const FLOOD: usize = 40;
    for handles in 1..=4 {
        let daemon = Daemon::start(vendor);
        let hostile: Vec<OwnedFd> = (0..handles).map(|_| connection(&daemon)).collect();
        let other = connection(&daemon);
        // It has accepted all of them when the last is answered.
        assert_eq!(crate::raw::open(&other, "nothing").err(), Some(Error::NoSuchPath));
        // One queue for all answers, so that they come in the order in which requests are served.
        let (mine, its) = pair(SocketType::SEQPACKET);
        stop(&daemon);
        for _ in 0..FLOOD {
            hostile.iter().for_each(|it| send(it, &request(77, 0, b""), &[its.as_fd()]));
        }
        send(&other, &request(Kind::Open as u32, 0, b"nothing"), &[its.as_fd()]);
        daemon.signal(Signal::CONT);
        drop(its);
        let answers = (0..=FLOOD * handles).map(|_| answer(&mine).unwrap().unwrap_err());
        let before = answers.take_while(|answer| *answer == Error::UnknownCall).count();
        assert!(before <= handles, "{before} of a flood by {handles} handles");
    }
}

fn r5_a_client_that_never_reads_an_answer_takes_no_memory_and_nobodys_turn(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let hostile = connection(&daemon);
    // Answers as long as there are: the first few fill what there is room for, and the rest is dropped.
    let hello = request(
        Kind::Call as u32,
        Opcode::Hello as u64,
        &[Hello::new().as_bytes(), &[0; 60_000]].concat(),
    );
    let (mine, its) = pair(SocketType::SEQPACKET);
    let flood = |count: usize| {
        for _ in 0..count {
            send(&hostile, &hello, &[its.as_fd()]);
        }
        // Everything of before is served when this is.
        crate::raw::open(&hostile, "nothing").unwrap_err();
    };
    flood(200);
    let before = resident(&daemon);
    for _ in 0..10 {
        flood(200);
        assert_eq!(crate::raw::open(connection(&daemon), "nothing").err(), Some(Error::NoSuchPath));
    }
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 256, "{grown} pages more after 2000 answers that nobody reads");
    drop((mine, its, hostile));
    daemon.is_well();
}

/// How many pages of memory the daemon has.
fn resident(daemon: &Daemon) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", daemon.pid())).unwrap();
    statm.split(' ').nth(1).unwrap().parse().unwrap()
}

fn r5_who_keeps_the_daemon_waiting_keeps_nobody_out_that_there_was_no_room_for(vendor: Vendor) {
    let daemon = Daemon::start(vendor);
    let device = crate::raw::open(connection(&daemon), "device/0000--00--02.0").unwrap();
    let call = |opcode: Opcode, payload: &[u8]| {
        ask(&device, &request(Kind::Call as u32, opcode as u64, payload)).is_some()
    };
    let (is_waiting, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // A reset takes a tenth of a second. Where there is no room, neither is answered.
                is_waiting.store(call(Opcode::Hello, Hello::new().as_bytes()), Ordering::Relaxed);
                call(Opcode::Reset, &[0; 8]);
            }
        });
        eventually(|| is_waiting.load(Ordering::Relaxed).then_some(()));
        let pid = Pid::from_raw(daemon.pid() as i32);
        // Room for no descriptor besides those that it has.
        let full = Rlimit { current: Some(3), ..getrlimit(Resource::Nofile) };
        let before = prlimit(pid, Resource::Nofile, full).unwrap();
        let asked = listeners(&daemon);
        let late = connection(&daemon);
        eventually(|| (listeners(&daemon) < asked).then_some(()));
        prlimit(pid, Resource::Nofile, before).unwrap();
        assert_eq!(crate::raw::open(&late, "nothing").err(), Some(Error::NoSuchPath));
        is_over.store(true, Ordering::Relaxed);
    });
    drop(device);
    daemon.is_well();
}

/// How many sockets the daemon listens to.
fn listeners(daemon: &Daemon) -> usize {
    let process = format!("/proc/{}", daemon.pid());
    let is_epoll = |name: &str| {
        let what = fs::read_link(format!("{process}/fd/{name}"));
        what.is_ok_and(|what| what.to_string_lossy().contains("eventpoll"))
    };
    let all = fs::read_dir(format!("{process}/fd")).unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let epoll = names.into_iter().find(|name| is_epoll(name)).unwrap();
    let watched = fs::read_to_string(format!("{process}/fdinfo/{epoll}")).unwrap();
    watched.lines().filter(|line| line.starts_with("tfd:")).count()
}
