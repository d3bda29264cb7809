//! `kill -9` at random moments, and what must hold afterwards: nothing acknowledged is lost, no order is left unfinished,
//! and `rondo audit` is clean.
//!
//! The processes are the real binary. [`one_process`] kills `rondo up`, [`services`] kills copies of `rondo serve`. Each
//! fault is proved to have met work under way, or it does not count. Everything random comes from one seed, which is
//! printed; the interleaving of the processes is the machine's own, so a seed repeats the plan and not the race.
//!
//! | Variable | Meaning | Default |
//! | --- | --- | --- |
//! | `RONDO_CRASH_ROUNDS` | faults of each test | 3 |
//! | `RONDO_CRASH_SEED` | where moments, victims and orders come from | from the clock |
//! | `RONDO_CRASH_BINARY` | another build of `rondo`, such as the one that is to be released | this build |
//! | `KAFKA_BROKERS`, `SCHEMA_REGISTRY_URL`, `DATABASE_URL` | servers of [`services`] | embedded ones, where it is SIGTERM |
//!
//! A run that fails keeps its directory, with the output of every process, and says where.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod customers;
mod goods;
mod plan;
mod process;
mod verdict;

mod one_process;
mod services;
