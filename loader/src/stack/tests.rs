use super::*;

fn input<'a>(args: &'a [Vec<u8>], env: &'a [Vec<u8>]) -> StackInput<'a> {
    StackInput {
        top: 0x7fff_ffff_f000,
        stack_limit: 8 << 20,
        path: b"/bin/true",
        args,
        env,
        random: *b"0123456789abcdef",
        gap: 0,
        aux: AuxInput { vdso: Some(0x7000), rseq: Some((28, 32)), ..AuxInput::default() },
    }
}

fn strings(n: usize, len: usize) -> Vec<Vec<u8>> {
    vec![vec![b'x'; len]; n]
}

struct Reader<'a>(&'a StackPlan);

impl Reader<'_> {
    fn word(&self, addr: u64) -> u64 {
        let at = (addr - self.0.sp) as usize;
        u64::from_le_bytes(self.0.bytes[at..at + 8].try_into().unwrap())
    }

    fn string(&self, addr: u64) -> &[u8] {
        let tail = &self.0.bytes[(addr - self.0.sp) as usize..];
        &tail[..tail.iter().position(|&b| b == 0).unwrap()]
    }
}

#[test]
fn the_stack_reads_as_a_program_reads_it() {
    let args = [b"prog".to_vec(), b"".to_vec(), b"two".to_vec()];
    let env = [b"A=1".to_vec(), b"B=2".to_vec()];
    for gap in [0, 1, 15, 16, 8191] {
        let plan = StackPlan::new(&StackInput { gap, ..input(&args, &env) }).unwrap();
        let r = Reader(&plan);
        assert_eq!(plan.sp % 16, 0);
        assert_eq!(plan.sp + plan.bytes.len() as u64, 0x7fff_ffff_f000);
        assert_eq!(r.word(plan.sp), 3);
        for (i, arg) in args.iter().enumerate() {
            assert_eq!(r.string(r.word(plan.sp + 8 + 8 * i as u64)), arg);
        }
        assert_eq!(r.word(plan.sp + 32), 0);
        assert_eq!(r.string(r.word(plan.sp + 40)), b"A=1");
        assert_eq!(r.string(r.word(plan.sp + 48)), b"B=2");
        assert_eq!(r.word(plan.sp + 56), 0);
        assert_eq!(r.word(plan.args.start - 1) & 0xff, 0);
        let mut at = plan.sp + 64;
        for &(key, value) in &plan.auxv {
            assert_eq!((r.word(at), r.word(at + 8)), (key, value));
            at += 16;
            match key {
                AT_EXECFN => assert_eq!(r.string(value), b"/bin/true"),
                AT_PLATFORM => assert_eq!(r.string(value), b"x86_64"),
                AT_RANDOM => assert_eq!(&r.string(value)[..16], b"0123456789abcdef"),
                _ => {}
            }
        }
        assert_eq!(plan.auxv.last(), Some(&(AT_NULL, 0)));
        assert_eq!(plan.args.end, plan.env.start);
        assert_eq!(&plan.bytes[plan.bytes.len() - 8 - 10..], b"/bin/true\0\0\0\0\0\0\0\0\0");
    }
}

#[test]
fn no_arguments_become_one_empty_argument() {
    let plan = StackPlan::new(&input(&[], &[])).unwrap();
    let r = Reader(&plan);
    assert_eq!(r.word(plan.sp), 1);
    assert_eq!(r.string(r.word(plan.sp + 8)), b"");
    assert_eq!(plan.args.end - plan.args.start, 1);
}

#[test]
fn sizes_beyond_the_limits_are_e2big() {
    let check = |args: &[Vec<u8>], limit| check_sizes(b"p", args, &[], limit);
    assert_eq!(check(&strings(1, MAX_ARG_STRLEN - 1), 8 << 20), Ok(()));
    assert_eq!(check(&strings(1, MAX_ARG_STRLEN), 8 << 20), Err(E2BIG));
    // 2 MiB are a quarter of 8 MiB: 16 strings of 128 KiB fill it, pointers included they do not fit.
    assert_eq!(check(&strings(15, MAX_ARG_STRLEN - 1), 8 << 20), Ok(()));
    assert_eq!(check(&strings(16, MAX_ARG_STRLEN - 1), 8 << 20), Err(E2BIG));
    assert_eq!(check(&strings(47, MAX_ARG_STRLEN - 1), u64::MAX), Ok(()));
    assert_eq!(check(&strings(48, MAX_ARG_STRLEN - 1), u64::MAX), Err(E2BIG));
    assert_eq!(check(&strings(8, 10_000), 128 << 10), Ok(()));
    assert_eq!(check(&strings(8, 10_000), 64 << 10), Err(E2BIG));
    assert_eq!(check(&strings(8, 10_000), 1 << 10), Err(E2BIG));
    assert_eq!(check(&[], 0), Ok(()));
}

#[test]
fn the_mapping_is_as_large_as_linuxs() {
    let args = strings(3, 5);
    let plan = StackPlan::new(&input(&args, &[])).unwrap();
    assert_eq!(plan.mapping_start(0x7fff_ffff_f000, 8 << 20), 0x7fff_fffd_e000);
    assert_eq!(plan.mapping_start(0x7fff_ffff_f000, 0), 0x7fff_ffff_e000);
}
