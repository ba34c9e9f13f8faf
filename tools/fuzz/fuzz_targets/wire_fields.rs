//! The fields of one message within a frame whose checksums hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    loggos::wire::fuzz::decode_fields(data);
});
