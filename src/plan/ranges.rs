//! Lists of processors and memory nodes, `0-3,7`, as masks of bits (cpuset(7), "List format").

/// Numbers are below this: the largest kernel configuration has 8192 processors.
pub const END: usize = 8192;

/// The mask of a list, without zero words at its end. Blanks around numbers are passed over; an empty list has no bit.
///
/// # Errors
/// What is wrong, in words.
pub fn mask(list: &str) -> Result<Vec<u64>, String> {
    let mut mask = Vec::new();
    if list.trim().is_empty() {
        return Ok(mask);
    }
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first, part)?, number(last, part)?);
        if first > last {
            return Err(format!("{part:?} is not a range: the first number is above the last"));
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0);
        }
        (first..=last).for_each(|bit| mask[bit / 64] |= 1 << (bit % 64));
    }
    Ok(mask)
}

fn number(text: &str, part: &str) -> Result<usize, String> {
    let text = text.trim();
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<usize>().ok()).flatten();
    match number {
        Some(number) if number < END => Ok(number),
        Some(number) => Err(format!("{number} is above {}", END - 1)),
        None => Err(format!("{part:?} is neither a number nor a range of numbers")),
    }
}

/// The shortest list of a mask.
pub fn text(mask: &[u64]) -> String {
    let has = |bit: usize| mask.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1);
    let mut parts = Vec::new();
    let mut bit = 0;
    while bit < mask.len() * 64 {
        if !has(bit) {
            bit += 1;
            continue;
        }
        let first = bit;
        while has(bit + 1) {
            bit += 1;
        }
        parts.push(if first == bit { first.to_string() } else { format!("{first}-{bit}") });
        bit += 1;
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(mask("0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(mask(" 64 , 0 ").unwrap(), [1, 1]);
        assert_eq!(mask("").unwrap(), [0u64; 0]);
        assert_eq!(mask("63-64").unwrap(), [1 << 63, 1]);
        for wrong in ["a", "1-", "-1", "3-1", "8192", "1,,2", "1;2", "0x1", "+1", "99999999999999999999"] {
            assert!(mask(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_mask_written_and_read_is_the_same(bits in proptest::collection::btree_set(0..END, 1..40)) {
            let list = bits.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let made = mask(&list).unwrap();
            prop_assert_eq!(mask(&text(&made)).unwrap(), made.clone());
            let count: u32 = made.iter().map(|word| word.count_ones()).sum();
            prop_assert_eq!(count as usize, bits.len());
        }

        #[test]
        fn no_text_is_a_panic(list in "[0-9,\\- a]{0,20}") {
            let _ = mask(&list);
        }
    }
}
