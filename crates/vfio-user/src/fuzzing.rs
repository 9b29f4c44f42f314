//! What the fuzzer and the replay of its corpus run.
