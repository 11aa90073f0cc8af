//! execve(2): replaces a process's program (Linux fs/exec.c, fs/binfmt_elf.c).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use abi::errno::{EACCES, EAGAIN, EBUSY, EIO, ELOOP, ENOENT, ENOEXEC, ENOMEM};
use abi::mman::{MapFlags, Prot};
use abi::regs::UserRegs;
use abi::signal::StackT;
use abi::{Errno, UserAddr};
use base::PAGE_SIZE;
use base::cred::Credentials;
use base::lock::Lock;
use base::memmap::{Access, MappedFile, MappingOrigin};
use base::wait::Events;
use fs::file::{FileDescription, oflag};
use fs::notify::event;
use fs::vfs::{MountFlags, Running, VfsPath, Walk};
use loader::elf::{self, Image, Placement, ReadAt, Source};
use loader::layout::{HeapPlace, Layout, Randomness};
use loader::stack::{AuxInput, StackInput, StackPlan};

use super::block::Registration;
use super::exec_cred::ExecCred;
use super::{Ctx, Task, TaskState};
use crate::mm::{FileMapping, MapBacking, MapRequest, MapType, MemoryManager, Params, VDSO, VVAR};
use crate::signal::SIGSEGV;

/// A mapped file's name, and the reference that keeps it open.
#[derive(Debug)]
pub struct FileOrigin {
    /// The file.
    pub file: Arc<FileDescription>,
    /// Its path when it was mapped.
    pub path: Vec<u8>,
    /// Of a program: keeps it from being written.
    pub running: Option<Running>,
}

impl MappingOrigin for FileOrigin {
    fn path(&self) -> Vec<u8> {
        self.path.clone()
    }

    fn id(&self) -> (u64, u64) {
        self.file.ops.metadata().map_or((0, 0), |m| (m.dev, m.ino))
    }

    fn is_same_file(&self, other: &dyn MappingOrigin) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| {
            Arc::ptr_eq(&self.file, &other.file) && self.running.is_none() && other.running.is_none()
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// What execve(2) knows of a new program when it gives up the former one.
struct Program {
    file: Arc<FileDescription>,
    image: Image,
    /// Keeps the file from being written.
    running: Option<Running>,
    interpreter: Option<(Arc<FileDescription>, Image)>,
    mm: Arc<MemoryManager>,
    layout: Layout,
    /// Soft `RLIMIT_STACK` in bytes.
    stack_limit: u64,
    random_bytes: [u8; 56],
    new_cred: ExecCred,
}

struct FileReader(Arc<FileDescription>);

impl ReadAt for FileReader {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buf.len() {
            let n = self.0.ops.read_at(offset + done as u64, &mut &mut buf[done..])?;
            if n == 0 {
                break;
            }
            done += n;
        }
        if done > 0 {
            self.0.tell(event::ACCESS);
        }
        Ok(done)
    }

    fn len(&self) -> u64 {
        self.0.ops.metadata().map_or(0, |m| m.size)
    }
}

/// What an mmap of `file` needs.
pub fn file_mapping(file: &Arc<FileDescription>, root: &fs::vfs::VfsPath, offset: u64) -> FileMapping {
    let path = match &file.path {
        Some(p) => p.full_path(root),
        None => file.ops.anonymous_name().unwrap_or_default(),
    };
    let origin = Arc::new(FileOrigin { file: file.clone(), path, running: None });
    FileMapping {
        file: file.ops.mappable().map(|pages| MappedFile { pages, origin }),
        offset,
        readable: file.is_readable(),
        writable: file.is_writable(),
        append_only: false,
        noexec: file.path.as_ref().is_some_and(|p| p.mount.flags().contains(MountFlags::NOEXEC)),
    }
}

fn prot_of(access: elf::Access) -> Prot {
    Prot::from_bits_truncate(access.bits().into())
}

impl Ctx<'_> {
    /// A path walk from the task's root and working directory.
    pub fn walk(&self) -> Walk<'_> {
        let fs = self.fs.lock();
        Walk { root: fs.root.clone(), base: fs.cwd.clone(), cred: &self.cred, umask: fs.umask }
    }

    fn open_program(&self, path: &[u8]) -> Result<Arc<FileDescription>, Errno> {
        let place = self.walk().resolve(path, true)?;
        self.program_at(place)
    }

    /// Opens the program at `place`; who may execute it need not be allowed to read it.
    ///
    /// # Errors
    /// `EACCES`, `ELOOP` for a symbolic link.
    pub fn program_at(&self, place: VfsPath) -> Result<Arc<FileDescription>, Errno> {
        let meta = place.dentry.inode().metadata()?;
        if meta.mode & 0o170_000 == 0o120_000 {
            return Err(ELOOP);
        }
        if meta.mode & 0o170_000 != 0o100_000 || meta.mode & 0o111 == 0 {
            return Err(EACCES);
        }
        self.walk().access_at(&place, 1)?;
        let root = Credentials { landlock: self.cred.landlock.clone(), ..Credentials::root() };
        let walk = Walk { cred: &root, ..self.walk() };
        let program = self.past_waits(|| walk.open_place(place.clone(), oflag::RDONLY | oflag::EXEC))?;
        program.tell(fs::anon::fanotify::OPEN_EXEC);
        Ok(program)
    }

    /// Opens the program that a descriptor means.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn program_of(&self, file: &Arc<FileDescription>) -> Result<Arc<FileDescription>, Errno> {
        match &file.path {
            Some(place) => self.program_at(place.clone()),
            None => {
                let meta = file.ops.metadata()?;
                let is_program = meta.mode & 0o170_000 == 0o100_000 && meta.mode & 0o111 != 0;
                if is_program { Ok(file.clone()) } else { Err(EACCES) }
            }
        }
    }

    /// Keeps a program or script from being written (`deny_write_access`).
    fn keep_unwritten(file: &FileDescription) -> Result<Option<Running>, Errno> {
        file.path.as_ref().map(|p| Running::new(&p.dentry)).transpose()
    }

    /// `PR_SET_MM_EXE_FILE` (Linux kernel/fork.c, `replace_mm_exe_file`).
    ///
    /// # Errors
    /// In the order checked: `EACCES`: no program that the caller may execute; `EBUSY`: the former is mapped still.
    pub fn replace_exe(&self, file: Arc<FileDescription>) -> Result<(), Errno> {
        let file = self.program_of(&file)?;
        let place = file.path.clone().ok_or(EACCES)?;
        let running = Self::keep_unwritten(&file)?;
        if let Some(former) = self.mm.layout().exe
            && self.mm.maps_file(former.id())
        {
            return Err(EBUSY);
        }
        let path = place.full_path(&self.fs.lock().root);
        self.mm.set_layout(|l| l.exe = Some(Arc::new(FileOrigin { file, path, running })));
        Ok(())
    }

    fn map_image(
        &self,
        mm: &MemoryManager,
        file: &Arc<FileDescription>,
        plan: &Placement,
    ) -> Result<(), Errno> {
        let root = self.fs.lock().root.clone();
        for op in &plan.ops {
            let backing = match op.source {
                Source::File { offset } => {
                    file.ops.prepare_mapping(offset..offset.saturating_add(op.len), false)?;
                    MapBacking::File(file_mapping(file, &root, offset))
                }
                Source::Anonymous => MapBacking::Anonymous,
            };
            let mut request = MapRequest::anonymous(op.addr, op.len, prot_of(op.access), MapFlags::FIXED);
            request.kind = Some(MapType::Private);
            request.backing = backing;
            mm.map(request)?;
            if let Some(clear) = &op.clear {
                let len = usize::try_from(clear.end - clear.start).map_err(|_| ENOMEM)?;
                mm.zero_out(UserAddr(clear.start), len)?;
            }
        }
        Ok(())
    }

    /// execve(2). On success the registers are those of the new program.
    ///
    /// # Errors
    /// As execve(2); after the point of no return the process is killed as well.
    pub fn exec(&mut self, path: &[u8], args: Vec<Vec<u8>>, env: Vec<Vec<u8>>) -> Result<(), Errno> {
        let file = self.open_program(path)?;
        self.exec_program(file, path, false, args, env)
    }

    /// [`Ctx::exec`] of an open program that is shown as `path`; `inaccessible`: the path will lead nowhere, so the
    /// program cannot be a script.
    ///
    /// # Errors
    /// As `exec`.
    pub fn exec_program(
        &mut self,
        file: Arc<FileDescription>,
        path: &[u8],
        inaccessible: bool,
        args: Vec<Vec<u8>>,
        env: Vec<Vec<u8>>,
    ) -> Result<(), Errno> {
        let former_tid = self.task.tid;
        let stack_limit = self.task.group.limits.stack.load(Ordering::Relaxed);
        let mut args = args;
        if args.is_empty() {
            args.push(Vec::new());
        }
        loader::stack::check_sizes(path, &args, &env, stack_limit)?;
        let mut file = file;
        let mut program = path.to_vec();
        let mut depth = 0;
        // Nobody may write what is read here.
        let mut scripts = Vec::new();
        let (image, running) = loop {
            let running = Self::keep_unwritten(&file)?;
            let reader = FileReader(file.clone());
            let head = loader::script::read_head(&reader)?;
            if !loader::script::is_script(&head) {
                break (elf::parse(&reader)?, running);
            }
            scripts.extend(running);
            let script = loader::script::parse(&head)?;
            if inaccessible {
                return Err(ENOENT);
            }
            args = script.arguments(&program, &args);
            program = script.interpreter.clone();
            file = self.open_program(&program)?;
            depth += 1;
            if depth > loader::script::MAX_DEPTH {
                return Err(ELOOP);
            }
        };
        let interpreter = match &image.interp {
            None => None,
            // No name is the working directory to the kernel.
            Some(p) if p.is_empty() => return Err(EACCES),
            Some(p) => {
                let f = self.open_program(p)?;
                scripts.extend(Self::keep_unwritten(&f)?);
                let parsed = elf::parse_interpreter(&FileReader(f.clone()))?;
                Some((f, parsed))
            }
        };
        let mut random_bytes = [0u8; 56];
        host::file::random(&mut random_bytes).map_err(|_| EIO)?;
        let randomness = {
            let mut r = [0u8; 40];
            r.copy_from_slice(&random_bytes[..40]);
            // ADDR_NO_RANDOMIZE of personality(2).
            let fixed = self.task.attributes.lock().personality & 0x4_0000 != 0;
            (self.task.kernel.aslr && !fixed).then(|| Randomness::from_bytes(r))
        };
        let end = self.task.kernel.platform.guest_range().end;
        let layout = Layout::new(randomness.as_ref(), stack_limit).ending_at(end);
        let mm = MemoryManager::new(
            &self.task.kernel.platform,
            self.task.group.limits.clone(),
            Params { mmap_base: layout.mmap_base, total_memory: self.task.kernel.system.total_memory },
        )?;
        mm.mdwe.store(self.mm.inherited_mdwe(), Ordering::Relaxed);
        let meta = file.ops.metadata()?;
        self.end_other_threads()?;
        // Nobody is left who could share the directories with others from now on.
        let new_cred = self.exec_cred(&file, &meta);
        let program =
            Program { file, image, running, interpreter, mm, layout, stack_limit, random_bytes, new_cred };
        let replaced = self.replace_program(program, path, &args, &env);
        match replaced {
            Ok(()) => self.trace_exec(former_tid),
            // There is nothing left to return to (`bprm_execve`, `force_fatal_sig`).
            Err(_) => self.kill_group(SIGSEGV),
        }
        replaced
    }

    /// Puts `program` in the place of the former one, behind the point of no return.
    fn replace_program(
        &mut self,
        program: Program,
        path: &[u8],
        args: &[Vec<u8>],
        env: &[Vec<u8>],
    ) -> Result<(), Errno> {
        let Program { file, image, running, interpreter, mm, layout, stack_limit, random_bytes, new_cred } =
            program;
        let (cred, secure) = (new_cred.cred.clone(), new_cred.secure);
        let bias = match image.kind {
            elf::Kind::Exec | elf::Kind::Other => 0,
            elf::Kind::Dyn if image.interp.is_some() => image.bias_for_base(layout.pie_base),
            elf::Kind::Dyn => image.bias_at(self.free_place(&mm, &image)?),
        };
        let plan = image.place(bias)?;
        self.map_image(&mm, &file, &plan)?;
        let mut entry = plan.entry;
        let mut interp_base = 0;
        if let Some((f, interp)) = &interpreter {
            let bias = interp.bias_at(self.free_place(&mm, interp)?);
            let placed = interp.place(bias)?;
            self.map_image(&mm, f, &placed)?;
            entry = placed.entry;
            interp_base = placed.bias;
        }
        self.enter_time_for_children();
        let vdso = self.map_vdso(&mm)?;
        let mut at_random = [0u8; 16];
        at_random.copy_from_slice(&random_bytes[40..]);
        let cpu = std::arch::x86_64::__cpuid(1);
        let stack = StackPlan::new(&StackInput {
            top: layout.stack_top,
            stack_limit,
            path,
            args,
            env,
            random: at_random,
            gap: layout.stack_gap,
            aux: AuxInput {
                vdso: Some(vdso),
                min_signal_stack: self.task.kernel.platform.xsave_layout().size as u64 + 1024,
                hwcap: cpu.edx.into(),
                hwcap2: 2,
                phdr: plan.phdr,
                phdr_count: image.phdr_count.into(),
                interp_base,
                entry: plan.entry,
                uid: cred.uid,
                euid: cred.euid,
                gid: cred.gid,
                egid: cred.egid,
                secure,
                rseq: Some((super::rseq::FEATURE_SIZE, super::rseq::ALIGN)),
            },
        })?;
        let start = stack.mapping_start(layout.stack_top, stack_limit);
        let prot =
            if image.exec_stack { Prot::READ | Prot::WRITE | Prot::EXEC } else { Prot::READ | Prot::WRITE };
        let request = MapRequest::anonymous(
            start,
            layout.stack_top - start,
            prot,
            MapFlags::FIXED | MapFlags::GROWSDOWN,
        );
        mm.map(request)?;
        mm.write_all(UserAddr(stack.sp), &stack.bytes)?;
        let brk = layout.brk_start(plan.brk, HeapPlace::of(&image));
        let root = self.fs.lock().root.clone();
        let exe_path = file.path.as_ref().map(|p| p.full_path(&root)).unwrap_or_default();
        let coredump_filter = self.mm.layout().coredump_filter;
        mm.set_layout(|l| {
            l.coredump_filter = coredump_filter;
            l.start_code = plan.code.start;
            l.end_code = plan.code.end;
            l.start_data = plan.data.start;
            l.end_data = plan.data.end;
            l.start_brk = brk;
            l.brk = brk;
            l.start_stack = stack.sp;
            l.arg_start = stack.args.start;
            l.arg_end = stack.args.end;
            l.env_start = stack.env.start;
            l.env_end = stack.env.end;
            l.exe = Some(Arc::new(FileOrigin { file: file.clone(), path: exe_path.clone(), running }));
            l.auxv = stack.auxv_bytes();
        });
        let window = stack.sp.saturating_sub(32 << 10).max(start) & !4095;
        let _ = mm.prefault(window..layout.stack_top, Some(Access::WRITE));
        self.take_exec_cred(new_cred);
        self.install_program(mm, entry, stack.sp, path, exe_path)
    }

    fn install_program(
        &mut self,
        mm: Arc<MemoryManager>,
        entry: u64,
        sp: u64,
        path: &[u8],
        exe_path: Vec<u8>,
    ) -> Result<(), Errno> {
        crate::syscall::uring::leave_all(self);
        self.release_mm();
        self.mm = mm.clone();
        let old = std::mem::replace(&mut *self.task.mm.lock(), mm);
        drop(old);
        // A table that nobody shares stays, with its record locks (the task's own look at it is the second reference).
        if Arc::strong_count(&self.files) > 2 {
            self.files = self.files.duplicate()?;
        }
        let keys = self.task.take_keys().executed();
        *self.task.keys.lock() = keys;
        self.altstack = StackT::NONE;
        self.regs = UserRegs { rip: entry, rsp: sp, ..UserRegs::new_user64() };
        let fp = crate::signal::frame::initial_fp(self.task.kernel.platform.xsave_layout());
        self.context.set_fp_state(&fp).map_err(|_| ENOMEM)?;
        self.task.group.timers.clear(false);
        self.task.group.signals.lock().reset_handlers();
        *self.task.group.exe.lock() = exe_path;
        let name = path.rsplit(|&b| b == b'/').next().unwrap_or(path);
        let mut state = self.task.state.lock();
        let former = std::mem::replace(&mut state.files, self.files.clone());
        state.name = name[..name.len().min(15)].to_vec();
        drop(state);
        drop(former);
        if let Some(p) = self.task.kernel.tree.lock().processes.get_mut(&self.task.group.pid) {
            p.has_execed = true;
        }
        // Last: who waits for the end of a pipe that closes on exec then finds all of the new program.
        self.files.close_on_exec();
        Ok(())
    }

    /// Finds room for a position-independent image by an ordinary search.
    fn free_place(&self, mm: &MemoryManager, image: &elf::Image) -> Result<u64, Errno> {
        let align = image.alignment().max(4096);
        let span = image.span().checked_add(align).ok_or(ENOEXEC)?;
        let addr = mm.map(MapRequest::anonymous(0, span, Prot::empty(), MapFlags::empty()))?;
        mm.unmap(addr, span)?;
        // The top of the hole, aligned: the space between stays free.
        Ok((addr + span - image.span()) & !(align - 1))
    }

    fn enter_time_for_children(&mut self) {
        let own = self.task.namespaces.lock().clone();
        let (namespaces, changed) = own.on_fork();
        if changed {
            let former = std::mem::replace(&mut *self.task.namespaces.lock(), namespaces);
            drop(former);
            self.offsets = self.task.offsets();
        }
    }

    fn map_vdso(&self, mm: &MemoryManager) -> Result<u64, Errno> {
        let kernel = &self.task.kernel;
        let vvar = self.task.vvar()?;
        // Lengths as Linux's; a touch beyond what there is gives SIGBUS, as there.
        let (data, code) = (loader::vdso::VVAR_SIZE, 2 * PAGE_SIZE);
        let base = mm.map(MapRequest::anonymous(0, data + code, Prot::empty(), MapFlags::empty()))?;
        let pieces = [
            (base, data, &vvar, Prot::READ, VVAR),
            (base + data, code, &kernel.vdso, Prot::READ | Prot::EXEC, VDSO),
        ];
        for (addr, len, pages, prot, name) in pieces {
            mm.map(MapRequest::special(addr, len, pages, prot, name))?;
        }
        Ok(base + data)
    }

    /// Ends the other threads of the process, for exec, and takes over the leader's ID.
    fn end_other_threads(&mut self) -> Result<(), Errno> {
        let group = self.task.group.clone();
        {
            let signals = group.signals.lock();
            let ending = group.exit_status.load(Ordering::SeqCst) >= 0;
            if ending || group.execing.load(Ordering::SeqCst) != 0 {
                return Err(EAGAIN);
            }
            if group.live.load(Ordering::SeqCst) == 1 && self.task.tid == group.pid {
                return Ok(());
            }
            group.execing.store(self.task.tid, Ordering::SeqCst);
            for t in signals.threads.iter().filter(|t| !Arc::ptr_eq(t, &self.task)) {
                t.killed.store(true, Ordering::SeqCst);
                t.signal_wake();
            }
        }
        let registration = Registration::new(&group.child_events, self.task.parker.clone(), Events::IN);
        loop {
            self.task.parker.prepare();
            if group.live.load(Ordering::SeqCst) == 1 {
                break;
            }
            if self.task.must_exit() {
                group.execing.store(0, Ordering::SeqCst);
                return Err(EAGAIN);
            }
            self.park(None);
        }
        drop(registration);
        if self.task.tid != group.pid {
            self.become_leader();
        }
        group.execing.store(0, Ordering::SeqCst);
        Ok(())
    }

    /// Goes on as the thread with the process's ID, whose own thread has ended.
    fn become_leader(&mut self) {
        let (old, pid) = (self.task.clone(), self.task.group.pid);
        let mm = old.mm.lock().clone();
        let fs = old.fs.lock().clone();
        let namespaces = old.namespaces.lock().clone();
        let undo = old.sem_undo.lock().take();
        let keys = old.take_keys();
        let cgroup = old.hand_over_cgroup();
        let mut tree = old.kernel.tree.lock();
        let mut signals = old.group.signals.lock();
        let mut from = old.state.lock();
        let task = Arc::new(Task {
            kernel: old.kernel.clone(),
            tid: pid,
            shown_tid: old.group.shown_pid,
            group: old.group.clone(),
            state: Lock::new(TaskState {
                mask: from.mask,
                real_mask: None,
                pending: std::mem::take(&mut from.pending),
                stop_pending: from.stop_pending,
                stop_dequeued: false,
                stopped: false,
                name: from.name.clone(),
                cred: from.cred.clone(),
                files: from.files.clone(),
            }),
            parker: old.parker.clone(),
            kicker: old.kicker.clone(),
            trace: old.trace.hand_over(),
            exit_code: AtomicI32::new(0),
            killed: AtomicBool::new(false),
            signal_pending: AtomicBool::new(true),
            robust_list: AtomicU64::new(0),
            keys: Lock::new(keys),
            rseq_event: AtomicBool::new(false),
            parent_death_signal: AtomicI32::new(old.parent_death_signal.load(Ordering::Relaxed)),
            seccomp: crate::seccomp::Seccomp::with(old.seccomp.state()),
            cgroup: Lock::new(cgroup),
            is_held: AtomicBool::new(false),
            namespaces: Lock::new(namespaces),
            sem_undo: Lock::new(undo),
            mm: Lock::new(mm),
            fs: Lock::new(fs),
            attributes: Lock::new(old.attributes.lock().clone()),
            account: old.account.clone(),
        });
        drop(from);
        signals.threads.clear();
        signals.threads.push(task.clone());
        drop(signals);
        tree.tasks.remove(&old.tid);
        tree.tasks.insert(pid, task.clone());
        tree.release_id(old.tid);
        for child in tree.processes.values_mut().filter(|p| p.parent_tid == old.tid) {
            child.parent_tid = pid;
        }
        drop(tree);
        super::current::set_current(Some(task.clone()));
        self.task = task;
    }
}
