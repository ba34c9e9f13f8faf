//! A stream of bytes, received in pieces, through the frame decoder into every message decoder.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    loggos::wire::fuzz::decode_stream(rest, usize::from(*first));
});
