//! A guest for the tests: a platform, an address space with a page of code, a context.

use super::Tested;
use std::sync::Arc;

use abi::regs::UserRegs;
use base::memmap::{Access, LARGE_PAGE, MemKind, MemRange, Memory};
use platform::{AddressSpace, Context, Platform, Trap};

pub const PAGE: u64 = 4096;
pub const CODE: u64 = 0x40_0000;
pub const STACK: u64 = 0x50_0000;
pub const RW: Access = Access::READ.union(Access::WRITE);
pub const RX: Access = Access::READ.union(Access::EXEC);
pub const RWX: Access = RW.union(Access::EXEC);

/// One guest thread.
pub struct Guest {
    pub platform: Arc<Tested>,
    pub space: Arc<dyn AddressSpace>,
    pub context: Box<dyn Context>,
    pub regs: UserRegs,
    pub code: MemRange,
}

impl Guest {
    pub fn new(platform: &Arc<Tested>) -> Self {
        let memory = platform.memory();
        let code = memory.allocate(2 * PAGE, PAGE, MemKind::Anonymous).unwrap();
        let space = platform.new_address_space().unwrap();
        space.map(CODE, MemRange { len: PAGE, ..code }, RX).unwrap();
        space.map(STACK, MemRange { offset: code.offset + PAGE, len: PAGE }, RW).unwrap();
        Self {
            platform: platform.clone(),
            space,
            context: platform.new_context().unwrap(),
            regs: UserRegs { rsp: STACK + PAGE / 2, ..UserRegs::new_user64() },
            code,
        }
    }

    /// Another thread of the same process.
    pub fn thread(&self) -> Self {
        Self {
            platform: self.platform.clone(),
            space: self.space.clone(),
            context: self.platform.new_context().unwrap(),
            regs: self.regs,
            code: self.code,
        }
    }

    pub fn memory(&self) -> &dyn Memory {
        &**self.platform.memory()
    }

    pub fn page(&self, fill: u8) -> MemRange {
        self.pages(1, fill)
    }

    pub fn pages(&self, n: u64, fill: u8) -> MemRange {
        let range = self.memory().allocate(n * PAGE, PAGE, MemKind::Anonymous).unwrap();
        for i in 0..n {
            self.memory().write(range.offset + i * PAGE, &[fill]);
        }
        range
    }

    /// `units` large pages of memory, each page with a byte of its own; `None` after saying so where there are none.
    pub fn large(&self, units: u64, fill: u8) -> Option<MemRange> {
        let Some(range) = self.memory().allocate_large(units * LARGE_PAGE) else {
            eprintln!("skipped: no huge pages");
            return None;
        };
        for i in 0..range.len / PAGE {
            self.memory().write(range.offset + i * PAGE, &[fill.wrapping_add(i as u8)]);
        }
        Some(range)
    }

    pub fn byte(&self, range: MemRange) -> u8 {
        let mut b = [0];
        self.memory().read(range.offset, &mut b);
        b[0]
    }

    /// Puts `code` at the start of the code page and runs it.
    pub fn run(&mut self, code: &[u8]) -> Trap {
        self.memory().write(self.code.offset, code);
        self.regs.rip = CODE;
        self.regs.rflags = 0x202;
        self.regs.rsp = STACK + PAGE / 2;
        self.go()
    }

    pub fn go(&mut self) -> Trap {
        self.context.switch(&self.space, &mut self.regs).unwrap()
    }

    /// `mov al, [rdi]; syscall`
    pub fn load(&mut self, addr: u64) -> Trap {
        self.regs.rdi = addr;
        self.run(&[0x8a, 0x07, 0x0f, 0x05])
    }

    /// `mov [rdi], al; syscall`
    pub fn store(&mut self, addr: u64, value: u8) -> Trap {
        self.regs.rdi = addr;
        self.regs.rax = value.into();
        self.run(&[0x88, 0x07, 0x0f, 0x05])
    }

    /// `call rdi; syscall`
    pub fn call(&mut self, addr: u64) -> Trap {
        self.regs.rdi = addr;
        self.run(&[0xff, 0xd7, 0x0f, 0x05])
    }

    pub fn al(&self) -> u8 {
        self.regs.rax as u8
    }
}

pub fn fault(addr: u64, access: Access) -> Trap {
    Trap::Fault { addr, access }
}

pub fn exception(vector: u8, code: u32) -> Trap {
    Trap::Exception { vector, code }
}
