//! The service as its users meet it: over HTTP, on a real PostgreSQL, as a process.

mod concurrency;
mod contract;
mod engine;
mod hostile;
mod openapi;
mod outage;
mod plans;
mod process;
mod readme;
mod schema;
mod stores;
mod support;
