//! An assembler for classic BPF that writes the program from its end.
//!
//! Jumps of classic BPF only go forward, so in a program that grows backwards every target is already there when its
//! jump is written: distances are known at once, and a conditional jump too short for its target (its offsets have
//! eight bits) gets a stepping stone right behind it.

use libc::sock_filter;

/// Longest program that the kernel takes (`BPF_MAXINSNS`).
pub(super) const BPF_MAXINSNS: usize = 4096;

const LD_W_ABS: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const ALU_AND_K: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JMP_JA: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const RET_K: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// A place in the program, counted from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// The comparisons of classic BPF: the accumulator against a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Jump {
    Eq,
    Gt,
    Ge,
}

/// The instructions written so far, last first.
#[derive(Default)]
pub(super) struct Assembler {
    reversed: Vec<sock_filter>,
    /// The newest `ret` of each action.
    returns: Vec<(u32, Label)>,
}

impl Assembler {
    /// The program in the kernel's order.
    pub(super) fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }

    /// `ret #action`: one that is still within the reach of a jump, or a new one.
    pub(super) fn ret(&mut self, action: u32) -> Label {
        let known = self.returns.iter().position(|(known, _)| *known == action);
        if let Some(index) = known {
            let label = self.returns[index].1;
            if self.distance(label) < 250 {
                return label;
            }
            self.returns.swap_remove(index);
        }
        let label = self.push(RET_K, 0, 0, action);
        self.returns.push((action, label));
        label
    }

    /// `ld [offset]`: loads the 32-bit word at `offset` of `struct seccomp_data` for the instruction written last.
    pub(super) fn load(&mut self, offset: u32) -> Label {
        self.push(LD_W_ABS, 0, 0, offset)
    }

    /// `and #mask`, before the instruction written last.
    pub(super) fn and(&mut self, mask: u32) -> Label {
        self.push(ALU_AND_K, 0, 0, mask)
    }

    /// `jump #k, yes, no`.
    pub(super) fn jump(&mut self, jump: Jump, k: u32, yes: Label, no: Label) -> Label {
        let code = match jump {
            Jump::Eq => libc::BPF_JEQ,
            Jump::Gt => libc::BPF_JGT,
            Jump::Ge => libc::BPF_JGE,
        };
        // The stone for `yes` may put one more instruction between this jump and `no`.
        let no = self.within_reach(no, 1);
        let yes = self.within_reach(yes, 0);
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push((libc::BPF_JMP | code | libc::BPF_K) as u16, jt, jf, k)
    }

    /// `label`, or a stepping stone to it where the next instruction but `more` cannot jump so far.
    fn within_reach(&mut self, label: Label, more: usize) -> Label {
        let distance = self.distance(label);
        if distance + more <= usize::from(u8::MAX) {
            return label;
        }
        match self.reversed[label.0] {
            sock_filter { code: RET_K, k, .. } => self.push(RET_K, 0, 0, k),
            _ => self.push(JMP_JA, 0, 0, distance as u32),
        }
    }

    /// Instructions that a jump written next skips to get to `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0 - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(sock_filter { code, jt, jf, k });
        Label(self.reversed.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program of `jeq`, `ja` and `ret` alone on the accumulator `a`.
    fn run(program: &[sock_filter], a: u32) -> u32 {
        let mut pc = 0;
        loop {
            let insn = program[pc];
            match insn.code {
                RET_K => return insn.k,
                JMP_JA => pc += 1 + insn.k as usize,
                _ => pc += 1 + usize::from(if a == insn.k { insn.jt } else { insn.jf }),
            }
        }
    }

    #[test]
    fn jumps_reach_across_any_number_of_instructions() {
        for filler in [0, 1, 248, 250, 251, 252, 253, 254, 255, 256, 257, 600] {
            let mut code = Assembler::default();
            let (one, two, three) = (code.ret(1), code.ret(2), code.ret(3));
            let if_7 = code.jump(Jump::Eq, 7, one, two);
            let if_8 = code.jump(Jump::Eq, 8, one, three);
            for _ in 0..filler {
                code.and(0);
            }
            code.jump(Jump::Eq, 9, if_7, if_8);
            let program = code.finish();
            assert_eq!([9, 8, 7].map(|a| run(&program, a)), [2, 1, 3], "{filler} instructions between");
        }
    }
}
