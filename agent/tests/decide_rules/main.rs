//! Every rule of the decision core, case by case: a healthy world, one thing changed, the step and its reason.

#[path = "../decide_support/mod.rs"]
mod decide_support;

mod announce;
mod candidate;
mod consent;
mod data;
mod following;
mod following_others;
mod hand_over;
mod leading;
mod lease;
mod life_cycle;
mod memory;
mod paused;
mod reign;
mod reinit;
mod restart;
mod rewind;
mod safety;
mod schedule;
mod settle;
mod standby_leader;
mod stopping;
mod storeless;
mod unlocked;
mod vacancy;
