//! One virtual processor: its fixed state, and a stay in the guest.
#![expect(unsafe_code, reason = "the run page's flag is shared with other threads; KVM_SET_XSAVE")]

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use abi::regs::{self, UserRegs};
use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_mp_state,
    kvm_msr_entry, kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};
use platform::Error;

use crate::layout::{is_ring0, kernel_address, ring0};
use crate::machine::{Entry, Machine};
use crate::ring0::{self as region, COMPAT_OFFSET, KERNEL_CS};
use crate::stats;

/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; `kvm-ioctls` has it for other kinds of descriptors only.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SFMASK: u32 = 0xc000_0084;
const MSR_TSC_AUX: u32 = 0xc000_0103;
/// RFLAGS that SYSCALL clears: TF, IF, DF, IOPL, NT, AC.
const SFMASK: u64 = 0x4_7700;
/// RFLAGS.IF: stays set where SYSCALL stays in user mode, for the interrupt window.
const FLAG_IF: u64 = 1 << 9;

/// PE MP ET NE WP AM PG.
const CR0: u64 = 0x8005_0033;
/// PAE OSFXSR OSXMMEXCPT.
const CR4: u64 = 0x620;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
/// SCE LME LMA NXE.
const EFER: u64 = 0xd01;

/// The flag that makes `KVM_RUN` return at once; stays valid as long as any clone is held by something that the vCPU's
/// owner outlives ([`crate::kick::Runner`] drops its clone when the stay ends).
#[derive(Clone, Debug)]
pub(crate) struct ImmediateExit(NonNull<AtomicU8>);

// SAFETY: the flag is an atomic byte in a shared mapping; who holds a clone is bounded as the type says.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    pub(crate) fn set(&self, on: bool) {
        // SAFETY: the run page is mapped while the vCPU lives, and clones are dropped before it (the type's promise).
        unsafe { self.0.as_ref() }.store(u8::from(on), Ordering::SeqCst);
    }
}

/// Why a stay in the guest ended.
#[derive(Debug)]
pub(crate) enum Exit {
    /// A stub's `out`.
    Out(u16),
    /// The host has no memory behind the page that the guest needs.
    NoMemory,
    /// A signal or the immediate-exit flag.
    Interrupted,
    /// KVM came back to itself, and was asked to say so.
    Window,
    /// The guest state cannot go on: what KVM said.
    Lost(String),
    /// KVM refused: our bug.
    Failed(kvm_ioctls::Error),
}

/// A virtual processor.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    pub(crate) index: usize,
    immediate_exit: ImmediateExit,
    /// The system registers of user code, before `cr3` and the bases.
    user: kvm_sregs,
    /// The system registers in the synchronised area are not the vCPU's: write them all.
    stale: bool,
}

impl Vcpu {
    /// Makes vCPU `index` and brings it to the state in which user code runs.
    pub(crate) fn new(machine: &Machine, index: usize) -> Result<Self, Error> {
        let mut fd = machine.vm.create_vcpu(index as u64).map_err(|e| match e.errno() {
            libc::ENOMEM | libc::EMFILE | libc::ENFILE => Error::Exhausted(format!("kvm: vCPU {index}: {e}")),
            _ => Error::Broken(format!("kvm: vCPU {index}: {e}")),
        })?;
        let flag = NonNull::from(&mut fd.get_kvm_run().immediate_exit).cast::<AtomicU8>();
        fd.set_cpuid2(&machine.cpu.cpuid).map_err(|e| broken("KVM_SET_CPUID2", e))?;
        let tss = region::add_cpu(&machine.ring0, index);
        let mut user = user_sregs(&fd.get_sregs().map_err(|e| broken("KVM_GET_SREGS", e))?, machine, tss);
        // What KVM says of FSGSBASE is wrong on the nested software KVM; whether it takes the bit is not.
        if fd.set_sregs(&user).is_err() {
            user.cr4 &= !CR4_FSGSBASE;
            fd.set_sregs(&user).map_err(|e| broken("KVM_SET_SREGS", e))?;
        }
        let mut vcpu = Self { fd, index, immediate_exit: ImmediateExit(flag), user, stale: true };
        vcpu.set_tsc_offset(machine);
        vcpu.configure(machine)?;
        Ok(vcpu)
    }

    /// The page faults that KVM settled by itself; `None` where it does not say.
    pub(crate) fn settled_faults(&self) -> Option<u64> {
        stats::settled_faults(&self.fd)
    }

    pub(crate) fn immediate_exit(&self) -> &ImmediateExit {
        &self.immediate_exit
    }

    /// Sets the state that no exit changes; again after KVM has reset the vCPU.
    pub(crate) fn configure(&mut self, machine: &Machine) -> Result<(), Error> {
        let lstar = kernel_address(machine.lstar());
        let sfmask = if machine.entry() == Entry::Unbacked { SFMASK & !FLAG_IF } else { SFMASK };
        let values = [
            // SYSCALL: CS 0x10, SS 0x18. SYSRET is not used.
            (MSR_STAR, u64::from(KERNEL_CS) << 32 | 0x23 << 48),
            (MSR_LSTAR, lstar),
            (MSR_CSTAR, lstar + COMPAT_OFFSET),
            (MSR_SFMASK, sfmask),
        ];
        let entries = values.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        self.set_msrs(&entries)?;
        // Absent where the processor has no RDTSCP; zero at reset anyway.
        let _ = self.set_msrs(&[kvm_msr_entry { index: MSR_TSC_AUX, ..Default::default() }]);
        if machine.cpu.has_xsave {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
            xcrs.xcrs[0].value = machine.cpu.xsave.features;
            self.fd.set_xcrs(&xcrs).map_err(|e| broken("KVM_SET_XCRS", e))?;
        }
        self.fd.set_sync_valid_reg(SyncReg::Register);
        self.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        self.fd.set_sync_valid_reg(SyncReg::VcpuEvents);
        let user = self.user;
        self.fd.sync_regs_mut().sregs = user;
        self.stale = true;
        Ok(())
    }

    /// Brings the vCPU back after a triple fault or the like, which may have reset it.
    pub(crate) fn reset(&mut self, machine: &Machine) -> Result<(), Error> {
        let runnable = kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE };
        self.fd.set_mp_state(runnable).map_err(|e| broken("KVM_SET_MP_STATE", e))?;
        self.fd.set_sregs(&self.user).map_err(|e| broken("KVM_SET_SREGS", e))?;
        self.configure(machine)?;
        self.fd.set_vcpu_events(&kvm_vcpu_events::default()).map_err(|e| broken("KVM_SET_VCPU_EVENTS", e))
    }

    fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), Error> {
        let msrs = Msrs::from_entries(entries)
            .map_err(|e| Error::Broken(format!("kvm: list of {} MSRs: {e:?}", entries.len())))?;
        match self.fd.set_msrs(&msrs) {
            Ok(n) if n == entries.len() => Ok(()),
            Ok(n) => Err(Error::Broken(format!("kvm: MSR {:#x} cannot be set", entries[n].index))),
            Err(e) => Err(broken("KVM_SET_MSRS", e)),
        }
    }

    /// Makes the guest's time stamp counter that of the host, where KVM can; every vCPU gets the same.
    fn set_tsc_offset(&self, machine: &Machine) {
        if machine.tsc_offset().is_some()
            && let Err(e) = self.tsc_attribute(KVM_SET_DEVICE_ATTR)
        {
            log::info!("kvm: vCPU {}: the TSC offset cannot be set: {e}", self.index);
            machine.forget_tsc_offset();
        }
    }

    /// Sets the TSC offset to zero (Linux Documentation/virt/kvm/devices/vcpu.rst).
    fn tsc_attribute(&self, request: libc::c_ulong) -> Result<(), std::io::Error> {
        let zero = 0u64;
        let attribute = kvm_device_attr {
            group: KVM_VCPU_TSC_CTRL,
            attr: u64::from(KVM_VCPU_TSC_OFFSET),
            addr: std::ptr::from_ref(&zero) as u64,
            flags: 0,
        };
        // SAFETY: the descriptor is a vCPU's; the kernel reads `attribute` and the `u64` that it names, which both live
        // until the call returns.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), request, std::ptr::from_ref(&attribute)) };
        if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Puts the registers in place for a stay in the tables at `root`; `regs` are sanitised. A GS base of 0 becomes
    /// `hidden_gs`.
    pub(crate) fn load(&mut self, r: &UserRegs, root: u64, hidden_gs: u64) {
        let user = self.user;
        let stale = std::mem::take(&mut self.stale);
        let area = self.fd.sync_regs_mut();
        let g = &mut area.regs;
        (g.rax, g.rbx, g.rcx, g.rdx) = (r.rax, r.rbx, r.rcx, r.rdx);
        (g.rsi, g.rdi, g.rsp, g.rbp) = (r.rsi, r.rdi, r.rsp, r.rbp);
        (g.r8, g.r9, g.r10, g.r11) = (r.r8, r.r9, r.r10, r.r11);
        (g.r12, g.r13, g.r14, g.r15) = (r.r12, r.r13, r.r14, r.r15);
        g.rip = r.rip;
        g.rflags = (r.rflags & regs::USER_SETTABLE_FLAGS) | regs::USER_FIXED_FLAGS;

        let s = &mut area.sregs;
        let mut changed = stale;
        if s.cr3 != root {
            s.cr3 = root;
            changed = true;
        }
        let cs = if r.cs == regs::USER32_CS { regs::USER32_CS } else { regs::USER_CS } as u16;
        if s.cs.selector != cs || s.ss.selector != regs::USER_DS as u16 {
            s.cs = if cs == regs::USER32_CS as u16 { code32() } else { user.cs };
            s.ss = user.ss;
            changed = true;
        }
        for (segment, want) in [(&mut s.ds, r.ds), (&mut s.es, r.es), (&mut s.fs, r.fs), (&mut s.gs, r.gs)] {
            let want = data_selector(want);
            if segment.selector != want {
                *segment = kvm_segment { base: segment.base, selector: want, ..user.ss };
                changed = true;
            }
        }
        let gs_base = if r.gs_base == 0 { hidden_gs } else { r.gs_base };
        for (segment, want) in [(&mut s.fs, r.fs_base), (&mut s.gs, gs_base)] {
            let want = if is_canonical(want) { want } else { 0 };
            if segment.base != want {
                segment.base = want;
                changed = true;
            }
        }
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        if changed {
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
    }

    /// Asks KVM to return whenever it has the guest's processor in hand and an interrupt could be injected.
    pub(crate) fn request_window(&mut self, on: bool) {
        self.fd.get_kvm_run().request_interrupt_window = u8::from(on);
    }

    /// Stays in the guest until it leaves, or again after a stay that had to be finished.
    pub(crate) fn run(&mut self) -> Exit {
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, _)) => Exit::Out(port),
            Ok(VcpuExit::IrqWindowOpen) => Exit::Window,
            Ok(VcpuExit::Intr) => Exit::Interrupted,
            Ok(VcpuExit::MemoryFault { .. }) => Exit::NoMemory,
            Ok(other) => {
                let text = format!("{other:?}");
                Exit::Lost(text)
            }
            Err(e) => match e.errno() {
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                libc::EFAULT => Exit::NoMemory,
                _ => Exit::Failed(e),
            },
        }
    }

    /// Whether an interrupted stay must be finished first: the vCPU is on its way out, in a stub or before it, and
    /// what it would report belongs to the registers that it has now.
    pub(crate) fn is_leaving(&self) -> bool {
        let area = self.fd.sync_regs();
        let exception = &area.events.exception;
        is_ring0(area.regs.rip) || exception.injected != 0 || exception.pending != 0
    }

    /// Reads the registers as the guest left them; CS, SS, RIP, RSP and RFLAGS may be a stub's.
    pub(crate) fn store(&mut self, r: &mut UserRegs) {
        let area = self.fd.sync_regs_mut();
        let g = &area.regs;
        (r.rax, r.rbx, r.rcx, r.rdx) = (g.rax, g.rbx, g.rcx, g.rdx);
        (r.rsi, r.rdi, r.rsp, r.rbp) = (g.rsi, g.rdi, g.rsp, g.rbp);
        (r.r8, r.r9, r.r10, r.r11) = (g.r8, g.r9, g.r10, g.r11);
        (r.r12, r.r13, r.r14, r.r15) = (g.r12, g.r13, g.r14, g.r15);
        r.rip = g.rip;
        r.rflags = g.rflags;
        let s = &area.sregs;
        (r.cs, r.ss) = (u64::from(s.cs.selector), u64::from(s.ss.selector));
        (r.ds, r.es) = (u64::from(s.ds.selector), u64::from(s.es.selector));
        (r.fs, r.gs) = (u64::from(s.fs.selector), u64::from(s.gs.selector));
        (r.fs_base, r.gs_base) = (s.fs.base, s.gs.base);
    }

    /// The address of the last page fault.
    pub(crate) fn cr2(&mut self) -> u64 {
        self.fd.sync_regs_mut().sregs.cr2
    }

    /// RIP as the guest left it.
    pub(crate) fn rip(&mut self) -> u64 {
        self.fd.sync_regs_mut().regs.rip
    }

    /// The privilege level that the guest left with.
    pub(crate) fn cpl(&mut self) -> u8 {
        self.fd.sync_regs_mut().sregs.ss.dpl
    }

    /// The floating-point state.
    pub(crate) fn xsave(&self) -> Result<kvm_xsave, Error> {
        self.fd.get_xsave().map_err(|e| broken("KVM_GET_XSAVE", e))
    }

    /// Sets the floating-point state.
    pub(crate) fn set_xsave(&self, state: &kvm_xsave) -> Result<(), Error> {
        // SAFETY: the kernel reads 4096 bytes or KVM_CAP_XSAVE2's answer, if that is more; it is more only for features
        // that need arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM), which nobody here calls.
        unsafe { self.fd.set_xsave(state) }.map_err(|e| broken("KVM_SET_XSAVE", e))
    }
}

fn broken(call: &str, e: kvm_ioctls::Error) -> Error {
    Error::Broken(format!("kvm: {call}: {e}"))
}

/// Whether bits 47 to 63 of an address are equal.
pub(crate) const fn is_canonical(addr: u64) -> bool {
    (addr as i64) << 16 >> 16 == addr as i64
}

/// A data selector that user code may have: null or one of the user segments.
fn data_selector(raw: u64) -> u16 {
    match raw | 3 {
        regs::USER_DS | regs::USER_CS | regs::USER32_CS => (raw | 3) as u16,
        _ => 0,
    }
}

fn segment(selector: u64, kind: u8, dpl: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: selector as u16,
        type_: kind,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}

const CODE: u8 = 0xb;
const DATA: u8 = 0x3;

fn code32() -> kvm_segment {
    segment(regs::USER32_CS, CODE, 3)
}

fn code64() -> kvm_segment {
    kvm_segment { db: 0, l: 1, ..segment(regs::USER_CS, CODE, 3) }
}

/// The system registers in which user code runs.
fn user_sregs(initial: &kvm_sregs, machine: &Machine, tss: u64) -> kvm_sregs {
    let mut s = *initial;
    let data = segment(regs::USER_DS, DATA, 3);
    s.cs = code64();
    s.ss = data;
    for other in [&mut s.ds, &mut s.es, &mut s.fs, &mut s.gs] {
        *other = kvm_segment { selector: 0, ..data };
    }
    s.tr = kvm_segment {
        base: tss,
        limit: region::TSS_LIMIT,
        selector: region::TSS,
        type_: CODE,
        present: 1,
        ..Default::default()
    };
    s.gdt.base = kernel_address(ring0::GDT);
    s.gdt.limit = region::GDT_LIMIT;
    s.idt.base = kernel_address(ring0::IDT);
    s.idt.limit = region::IDT_LIMIT;
    s.cr0 = CR0;
    s.cr4 = CR4 | CR4_FSGSBASE | if machine.cpu.has_xsave { CR4_OSXSAVE } else { 0 };
    s.efer = EFER;
    s
}
