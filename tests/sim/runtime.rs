//! A tiny executor over simulated time: tasks belong to processes, processes can be frozen and killed.
//!
//! Time is true time in nanoseconds, which nobody in the simulated world can read; each machine sees it through
//! a [`Clock`] of its own. Everything runs on one thread in the order of (time, number), so a run is a function
//! of its seed.

use std::cell::{Cell, RefCell, RefMut};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pgvane_cluster::clock::Tick;

use crate::clock::Clock;
use crate::world::World;

/// A millisecond of true time.
pub(crate) const MS: u64 = 1_000_000;
/// A second of true time.
pub(crate) const SEC: u64 = 1_000 * MS;

/// Steps at one instant that no healthy run comes near.
const SPINNING: u64 = 100_000;

/// A task, while it lives; a number may be used again, so waking one is only a hint to look again.
pub(crate) type TaskId = usize;
/// A process; never used again.
pub(crate) type Proc = usize;
/// A machine's clocks.
pub(crate) type ClockId = usize;

type Woken = Rc<RefCell<VecDeque<TaskId>>>;
type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What comes at a time, in the order of its coming: the time, a number, and what it is.
type Entry = (u64, u64, Due);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Timer(usize),
    Call(usize),
}

type Call = Box<dyn FnOnce(&Sim)>;

struct Process {
    clock: ClockId,
    alive: bool,
    /// How many reasons there are for it not to run.
    frozen: u32,
    /// Tasks that were woken meanwhile.
    parked: Vec<TaskId>,
}

struct Slot {
    proc: Proc,
    /// Absent while it is polled, and after its end.
    task: Option<Task>,
    used: bool,
}

/// Whom a timer wakes: nobody, once the sleep that set it is over. The number tells a timer from a later one in
/// the same place.
#[derive(Clone, Copy)]
struct Timer {
    number: u64,
    wakes: Option<TaskId>,
}

#[derive(Default)]
struct Runtime {
    number: u64,
    queue: BinaryHeap<Reverse<Entry>>,
    timers: Vec<Timer>,
    free_timers: Vec<usize>,
    calls: Vec<Option<Call>>,
    free_calls: Vec<usize>,
    tasks: Vec<Slot>,
    free: Vec<TaskId>,
    procs: Vec<Process>,
    clocks: Vec<Clock>,
}

struct Shared {
    now: Cell<u64>,
    current: Cell<TaskId>,
    woken: Woken,
    rt: RefCell<Runtime>,
    world: RefCell<World>,
}

/// The simulation. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Sim(Rc<Shared>);

impl Sim {
    /// A simulation whose world is made with the means to create signals.
    pub(crate) fn new(clocks: Vec<Clock>, world: impl FnOnce(&SignalMaker) -> World) -> Sim {
        let woken = Woken::default();
        let world = world(&SignalMaker(Rc::clone(&woken)));
        Sim(Rc::new(Shared {
            now: Cell::new(0),
            current: Cell::new(usize::MAX),
            woken,
            rt: RefCell::new(Runtime { clocks, ..Runtime::default() }),
            world: RefCell::new(world),
        }))
    }

    /// The world. Never held across an await.
    pub(crate) fn w(&self) -> RefMut<'_, World> {
        self.0.world.borrow_mut()
    }

    /// True time.
    pub(crate) fn now(&self) -> u64 {
        self.0.now.get()
    }

    pub(crate) fn clock(&self, clock: ClockId) -> Clock {
        self.0.rt.borrow().clocks[clock]
    }

    pub(crate) fn set_clock(&self, clock: ClockId, to: Clock) {
        self.0.rt.borrow_mut().clocks[clock] = to;
    }

    /// `CLOCK_BOOTTIME` of a machine.
    pub(crate) fn tick(&self, clock: ClockId) -> Tick {
        self.clock(clock).boottime(self.now())
    }

    pub(crate) fn signal(&self) -> Signal {
        SignalMaker(Rc::clone(&self.0.woken)).make()
    }

    pub(crate) fn new_proc(&self, clock: ClockId) -> Proc {
        let mut rt = self.0.rt.borrow_mut();
        rt.procs.push(Process { clock, alive: true, frozen: 0, parked: vec![] });
        rt.procs.len() - 1
    }

    fn clock_of(&self, proc: Proc) -> Clock {
        let rt = self.0.rt.borrow();
        rt.clocks[rt.procs[proc].clock]
    }

    /// Starts a task of `proc`; nothing happens when the process has ended.
    pub(crate) fn spawn(&self, proc: Proc, task: impl Future<Output = ()> + 'static) -> TaskId {
        let mut rt = self.0.rt.borrow_mut();
        if !rt.procs[proc].alive {
            return usize::MAX;
        }
        let slot = Slot { proc, task: Some(Box::pin(task)), used: true };
        let id = match rt.free.pop() {
            Some(id) => {
                rt.tasks[id] = slot;
                id
            }
            None => {
                rt.tasks.push(slot);
                rt.tasks.len() - 1
            }
        };
        self.0.woken.borrow_mut().push_back(id);
        id
    }

    /// Calls `f` at true time `at`.
    pub(crate) fn at(&self, at: u64, f: impl FnOnce(&Sim) + 'static) {
        let mut rt = self.0.rt.borrow_mut();
        let call: Option<Call> = Some(Box::new(f));
        let place = if let Some(place) = rt.free_calls.pop() {
            rt.calls[place] = call;
            place
        } else {
            rt.calls.push(call);
            rt.calls.len() - 1
        };
        rt.push(at.max(self.now()), Due::Call(place));
    }

    /// Calls `f` after `d` nanoseconds of true time.
    pub(crate) fn after(&self, d: u64, f: impl FnOnce(&Sim) + 'static) {
        self.at(self.now() + d, f);
    }

    /// What to do now that the time of `due` has come.
    fn take(&self, due: Due) -> Option<Call> {
        let mut rt = self.0.rt.borrow_mut();
        match due {
            Due::Timer(place) => {
                rt.free_timers.push(place);
                let wakes = rt.timers[place].wakes.take();
                self.0.woken.borrow_mut().extend(wakes);
                None
            }
            Due::Call(place) => {
                rt.free_calls.push(place);
                rt.calls[place].take()
            }
        }
    }

    /// Ends a task.
    pub(crate) fn abort(&self, id: TaskId) {
        let dropped = self.0.rt.borrow_mut().tasks.get_mut(id).and_then(|slot| slot.task.take());
        if dropped.is_some() {
            let mut rt = self.0.rt.borrow_mut();
            rt.tasks[id].used = false;
            rt.free.push(id);
        }
    }

    /// Ends a process with all its tasks.
    pub(crate) fn kill(&self, proc: Proc) {
        let ids: Vec<TaskId> = {
            let mut rt = self.0.rt.borrow_mut();
            rt.procs[proc].alive = false;
            (0..rt.tasks.len()).filter(|id| rt.tasks[*id].used && rt.tasks[*id].proc == proc).collect()
        };
        ids.into_iter().for_each(|id| self.abort(id));
    }

    /// Stops a process for one more reason.
    pub(crate) fn freeze(&self, proc: Proc) {
        self.0.rt.borrow_mut().procs[proc].frozen += 1;
    }

    /// Takes one reason away.
    pub(crate) fn thaw(&self, proc: Proc) {
        let mut rt = self.0.rt.borrow_mut();
        let process = &mut rt.procs[proc];
        process.frozen -= 1;
        if process.frozen == 0 {
            self.0.woken.borrow_mut().extend(process.parked.drain(..));
        }
    }

    pub(crate) fn is_frozen(&self, proc: Proc) -> bool {
        self.0.rt.borrow().procs[proc].frozen > 0
    }

    pub(crate) fn is_alive(&self, proc: Proc) -> bool {
        self.0.rt.borrow().procs[proc].alive
    }

    /// Runs until `done` says so or true time reaches `end`.
    pub(crate) fn run(&self, end: u64, mut done: impl FnMut(&Sim) -> bool) {
        let mut at_once = 0;
        loop {
            loop {
                let next = self.0.woken.borrow_mut().pop_front();
                let Some(id) = next else { break };
                self.poll(id);
                at_once += 1;
                if at_once > SPINNING {
                    self.w().check.spins(self.now(), "something is done again and again at one instant");
                    return;
                }
            }
            if done(self) {
                return;
            }
            let next = {
                let mut rt = self.0.rt.borrow_mut();
                match rt.queue.peek() {
                    Some(Reverse((at, ..))) if *at <= end => rt.queue.pop(),
                    _ => None,
                }
            };
            let Some(Reverse((at, _, due))) = next else {
                self.0.now.set(end);
                self.w().now = end;
                return;
            };
            if at != self.now() {
                at_once = 0;
                self.0.now.set(at);
                self.w().now = at;
            }
            if let Some(call) = self.take(due) {
                call(self);
            }
        }
    }

    /// Drops all that is still to come. Tasks hold the simulation that holds them: without this none is ever freed.
    pub(crate) fn clear(&self) {
        let (tasks, calls) = {
            let mut rt = self.0.rt.borrow_mut();
            rt.procs.iter_mut().for_each(|p| p.alive = false);
            rt.queue.clear();
            (std::mem::take(&mut rt.tasks), std::mem::take(&mut rt.calls))
        };
        drop((tasks, calls));
    }

    fn poll(&self, id: TaskId) {
        let task = {
            let mut rt = self.0.rt.borrow_mut();
            let Some(proc) = rt.tasks.get(id).filter(|s| s.used).map(|s| s.proc) else { return };
            if rt.procs[proc].frozen > 0 {
                let parked = &mut rt.procs[proc].parked;
                if !parked.contains(&id) {
                    parked.push(id);
                }
                return;
            }
            rt.tasks[id].task.take()
        };
        let Some(mut task) = task else { return };
        self.0.current.set(id);
        let ended = task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        self.0.current.set(usize::MAX);
        let mut rt = self.0.rt.borrow_mut();
        let alive = rt.procs[rt.tasks[id].proc].alive;
        if ended || !alive {
            rt.tasks[id].used = false;
            rt.free.push(id);
            drop(rt);
            drop(task);
        } else {
            rt.tasks[id].task = Some(task);
        }
    }

    /// Sleeps as tokio does, on `CLOCK_MONOTONIC` of the machine of `proc`.
    pub(crate) async fn sleep(&self, proc: Proc, d: Duration) {
        let nanos = i64::try_from(d.as_nanos()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4);
        let due = self.clock_of(proc).monotonic(self.now()) + nanos;
        let mut alarm = Alarm::new(self);
        poll_fn(|_| {
            let clock = self.clock_of(proc);
            if clock.monotonic(self.now()) >= due {
                return Poll::Ready(());
            }
            alarm.set(clock.true_of_monotonic(due));
            Poll::Pending
        })
        .await;
    }

    /// Sleeps until `CLOCK_BOOTTIME` shows `until`, as the guard's timer does.
    pub(crate) async fn sleep_until_boottime(&self, proc: Proc, until: Tick) {
        let mut alarm = Alarm::new(self);
        poll_fn(|_| {
            let clock = self.clock_of(proc);
            if clock.boottime(self.now()) >= until {
                return Poll::Ready(());
            }
            alarm.set(clock.true_time(until));
            Poll::Pending
        })
        .await;
    }

    /// Waits until `condition` holds; it is looked at whenever `signal` is raised.
    pub(crate) async fn until(&self, signal: &Signal, mut condition: impl FnMut() -> bool) {
        poll_fn(|_| {
            if condition() {
                return Poll::Ready(());
            }
            let (mut waiters, current) = (signal.0.waiters.borrow_mut(), self.0.current.get());
            if !waiters.contains(&current) {
                waiters.push(current);
            }
            Poll::Pending
        })
        .await;
    }

    /// `future`, unless it takes longer than `limit` by the clock of `proc`.
    pub(crate) async fn timeout<F: Future>(
        &self,
        proc: Proc,
        limit: Duration,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(proc, limit));
        poll_fn(|cx| {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(value));
            }
            sleep.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// The task that is polled now is polled again at once.
    pub(crate) fn again(&self) {
        self.0.woken.borrow_mut().push_back(self.0.current.get());
    }

    /// Waits for whichever comes first.
    pub(crate) async fn race(&self, a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
        let (mut a, mut b) = (pin!(a), pin!(b));
        poll_fn(|cx| {
            if a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits for all, side by side; the results in their order.
    pub(crate) async fn all<T>(&self, futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> Vec<T> {
        let mut waiting: Vec<_> = futures.into_iter().map(|f| (f, None)).collect();
        poll_fn(|cx| {
            for (future, result) in waiting.iter_mut().filter(|(_, r)| r.is_none()) {
                if let Poll::Ready(value) = future.as_mut().poll(cx) {
                    *result = Some(value);
                }
            }
            if waiting.iter().all(|(_, r)| r.is_some()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        waiting.into_iter().filter_map(|(_, result)| result).collect()
    }

    /// A place for an answer, and the wait for it.
    pub(crate) fn oneshot<T: 'static>(&self) -> (Answer<T>, impl Future<Output = T> + use<T>) {
        let slot = Rc::new(RefCell::new(None));
        let signal = self.signal();
        let answer = Answer { slot: Rc::clone(&slot), signal: signal.clone() };
        let sim = self.clone();
        let wait = async move {
            sim.until(&signal, || slot.borrow().is_some()).await;
            slot.borrow_mut().take().expect("the wait ends when it is there")
        };
        (answer, wait)
    }
}

impl Runtime {
    fn push(&mut self, at: u64, due: Due) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number, due)));
    }
}

/// The timer of one sleep. It goes with the sleep: most are those of a bound that was not reached.
struct Alarm<'a> {
    sim: &'a Sim,
    at: u64,
    place: usize,
    number: u64,
}

impl Alarm<'_> {
    fn new(sim: &Sim) -> Alarm<'_> {
        Alarm { sim, at: 0, place: 0, number: 0 }
    }

    /// Wakes the task that is polled now at true time `at`, or the next instant.
    fn set(&mut self, at: u64) {
        let at = at.max(self.sim.now() + 1);
        if self.at == at {
            return;
        }
        self.cancel();
        let rt = &mut *self.sim.0.rt.borrow_mut();
        let timer = Timer { number: rt.number + 1, wakes: Some(self.sim.0.current.get()) };
        self.at = at;
        self.number = timer.number;
        self.place = if let Some(place) = rt.free_timers.pop() {
            rt.timers[place] = timer;
            place
        } else {
            rt.timers.push(timer);
            rt.timers.len() - 1
        };
        rt.push(at, Due::Timer(self.place));
    }

    fn cancel(&mut self) {
        if self.number == 0 {
            return;
        }
        let mut rt = self.sim.0.rt.borrow_mut();
        if let Some(timer) = rt.timers.get_mut(self.place).filter(|t| t.number == self.number) {
            timer.wakes = None;
        }
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Where an answer goes.
pub(crate) struct Answer<T> {
    slot: Rc<RefCell<Option<T>>>,
    signal: Signal,
}

impl<T> Answer<T> {
    pub(crate) fn send(self, value: T) {
        *self.slot.borrow_mut() = Some(value);
        self.signal.raise();
    }
}

/// Makes signals before there is a simulation.
pub(crate) struct SignalMaker(Woken);

impl SignalMaker {
    pub(crate) fn make(&self) -> Signal {
        Signal(Rc::new(SignalInner { waiters: RefCell::default(), woken: Rc::clone(&self.0) }))
    }
}

struct SignalInner {
    waiters: RefCell<Vec<TaskId>>,
    woken: Woken,
}

/// Something that tasks wait for.
#[derive(Clone)]
pub(crate) struct Signal(Rc<SignalInner>);

impl Signal {
    /// Wakes everybody who waits.
    pub(crate) fn raise(&self) {
        self.0.woken.borrow_mut().extend(self.0.waiters.borrow_mut().drain(..));
    }
}
