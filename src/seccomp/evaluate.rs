//! What a program of ours answers: classic BPF as the kernel runs it, as far as the compiler writes it.

use super::abi::{self, Syscall};
use super::meaning::Action;
use super::native;

/// The answer of a compiled filter to the machine's own system call `name`, with arguments of 0; none for a name without
/// a number.
pub fn answer(program: &[libc::sock_filter], name: &str) -> Option<Action> {
    let arch = native().ok()?;
    let (_, abi) = abi::family(arch)?.first()?;
    let number = Syscall::named(name)?.number(*abi)?;
    let word = |offset: u32| match offset {
        0 => number,
        4 => abi::audit_arch(arch),
        _ => 0,
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let libc::sock_filter { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        let mut jump = |met: bool| at += usize::from(if met { jt } else { jf });
        match u32::from(code) {
            code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => accumulator = word(k),
            code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => accumulator &= k,
            code if code == libc::BPF_JMP | libc::BPF_JA => at += k as usize,
            code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => jump(accumulator == k),
            code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => jump(accumulator > k),
            code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => jump(accumulator >= k),
            code if code == libc::BPF_RET | libc::BPF_K => return Some(Action(k)),
            _ => return None,
        }
    }
}
