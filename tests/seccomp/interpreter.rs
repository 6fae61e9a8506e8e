//! Classic BPF as seccomp(2) runs it, and the kernel's rules for such a program.

use libc::sock_filter;

/// `struct seccomp_data` without the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub nr: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Data {
    /// The word at `offset` as a little-endian kernel lays it out, or a big-endian one.
    fn word(&self, offset: u32, big_endian: bool) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => 0,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                let high = offset.is_multiple_of(8) == big_endian;
                if high { (arg >> 32) as u32 } else { arg as u32 }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Runs `program` on `data` of a little-endian machine.
pub fn run(program: &[sock_filter], data: &Data) -> u32 {
    run_on(program, data, false)
}

/// Runs `program` on `data`. Knows more opcodes than our compiler uses, as libseccomp's programs run here too.
pub fn run_on(program: &[sock_filter], data: &Data, big_endian: bool) -> u32 {
    let (mut pc, mut a, mut scratch) = (0, 0u32, [0u32; 16]);
    loop {
        let sock_filter { code, jt, jf, k } = program[pc];
        pc += 1;
        let mut jump = |yes: bool| pc += usize::from(if yes { jt } else { jf });
        match code {
            0x20 => a = data.word(k, big_endian),
            0x00 => a = k,
            0x60 => a = scratch[k as usize],
            0x02 => scratch[k as usize] = a,
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x45 => jump(a & k != 0),
            0x06 => return k,
            _ => panic!("opcode {code:#x} at {}", pc - 1),
        }
    }
}

/// What `bpf_check_classic` and `seccomp_check_filter` of the kernel want, for the opcodes that we write.
pub fn check(program: &[sock_filter]) -> Result<(), String> {
    if program.is_empty() || program.len() > 4096 {
        return Err(format!("{} instructions", program.len()));
    }
    let last = program.len() - 1;
    for (pc, insn) in program.iter().enumerate() {
        let room = last - pc;
        let good = match insn.code {
            0x20 => insn.k < 64 && insn.k.is_multiple_of(4) && room > 0,
            0x54 => room > 0,
            0x05 => (insn.k as usize) < room,
            0x15 | 0x25 | 0x35 => usize::from(insn.jt.max(insn.jf)) < room,
            0x06 => true,
            _ => false,
        };
        if !good || (pc == last && insn.code != 0x06) {
            return Err(format!("instruction {pc}: {insn:?}"));
        }
    }
    Ok(())
}
