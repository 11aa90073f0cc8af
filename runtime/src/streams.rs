//! The program's standard streams, and the signals that ringfence itself gets.

use std::sync::Arc;

use abi::Errno;
use base::cred::Credentials;
use fs::vfs::Walk;
use sentry::Kernel;
use sentry::task::FdTable;

/// Signals that are the program's: SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGTERM, SIGCONT, SIGTSTP,
/// SIGWINCH, SIGIO, SIGPWR. (SIGTTIN and SIGTTOU stop ringfence itself.)
pub(crate) const FORWARDED: [i32; 12] = [1, 2, 3, 10, 12, 14, 15, 18, 20, 28, 29, 30];

/// Opens the first program's standard streams. Those that are the terminal that ringfence was started on become a
/// terminal of the sandbox.
///
/// # Errors
/// What making a terminal, opening it and starting its threads give.
pub(crate) fn open(
    kernel: &Arc<Kernel>,
    files: &FdTable,
    cred: &Credentials,
) -> Result<Option<Arc<fs::tty::Console>>, Errno> {
    let console = fs::tty::Console::start(&kernel.terminals)?;
    let root = kernel.mounts.root();
    let walk = Walk { root: root.clone(), base: root, cred: &Credentials::root(), umask: 0 };
    let tty = match &console {
        Some(console) => {
            let name = format!("/dev/pts/{}", console.terminal().index);
            let place = walk.resolve(name.as_bytes(), true)?;
            let owner = fs::vfs::SetAttributes { uid: Some(cred.uid), ..Default::default() };
            place.dentry.inode().set_attributes(&owner)?;
            Some(walk.open_place(place, fs::file::oflag::RDWR)?)
        }
        None => None,
    };
    for number in 0..3u8 {
        let is_terminal = console.as_ref().is_some_and(|c| c.has_stream(number));
        let file = match &tty {
            Some(tty) if is_terminal => tty.clone(),
            _ => fs::anon::host_stream::standard(number),
        };
        files.install(file, false, 0, 1024)?;
    }
    if let Some(console) = &console {
        let _ = kernel.console.set(console.clone());
    }
    Ok(console)
}

/// Starts the thread that hands the signals that ringfence gets on to the program.
///
/// # Errors
/// The host has no room for it.
pub(crate) fn forward_signals(kernel: &Arc<Kernel>) -> std::io::Result<()> {
    const SIGINT: i32 = 2;
    const SIGQUIT: i32 = 3;
    const SIGCONT: i32 = 18;
    const SIGTSTP: i32 = 20;
    const SIGWINCH: i32 = 28;
    let kernel = kernel.clone();
    let body = move || {
        loop {
            let (signo, is_kernels) = host::terminal::next_signal(&FORWARDED);
            let console = kernel.console.get();
            match (signo, console) {
                (SIGWINCH, Some(console)) => console.resize(),
                (SIGCONT, Some(console)) => console.resume(),
                (SIGWINCH | SIGCONT, None) => {}
                // The host's terminal means all that run in its foreground.
                (SIGINT | SIGQUIT | SIGTSTP, Some(console)) if is_kernels => console.signal(signo),
                (SIGINT | SIGQUIT | SIGTSTP, None) if is_kernels => kernel.forward_to_group(signo),
                _ => kernel.forward_signal(signo),
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(body).map(drop)
}
