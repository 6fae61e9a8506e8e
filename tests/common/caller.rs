//! Programs that make one system call.

/// A static x86-64 program that makes one system call with all arguments 0, and exits with its errno (0: it worked).
pub fn caller(number: u32) -> Vec<u8> {
    caller_with(number, 0, 0)
}

/// The same with the first two arguments.
pub fn caller_with(number: u32, first: u32, second: u32) -> Vec<u8> {
    let mut code: Vec<u8> = Vec::new();
    for (mov, value) in [(0xbf, first), (0xbe, second)] {
        code.push(mov); // mov edi and esi
        code.extend(value.to_le_bytes());
    }
    code.extend([0x31, 0xd2, 0x45, 0x31, 0xd2, 0x45, 0x31, 0xc0]); // xor edx,edx; xor r10d,r10d; xor r8d,r8d
    code.push(0xb8); // mov eax, number
    code.extend(number.to_le_bytes());
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0x89, 0xc7, 0xf7, 0xdf]); // mov edi,eax; neg edi
    code.extend([0xb8, 231, 0, 0, 0, 0x0f, 0x05]); // exit_group(edi)
    let base: u64 = 0x40_0000;
    let size = 120 + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64
    for word in [base + 120, 64, 0] {
        elf.extend(word.to_le_bytes()); // entry, program headers, section headers
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, read and execute
    for word in [0, base, base, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}
