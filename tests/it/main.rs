//! The service as its users meet it: over HTTP, on a real PostgreSQL, as a process.

mod auditor;
mod chaos;
mod concurrency;
mod contract;
mod engine;
mod fuzz;
mod hostile;
mod model;
mod openapi;
mod outage;
mod plans;
mod process;
mod readme;
mod schema;
mod simulation;
mod stores;
mod support;
mod verify;
