//! The service as its users meet it: over HTTP, on a real PostgreSQL, as a process.

mod auditor;
mod changes;
mod chaos;
mod clients;
mod concurrency;
mod console;
mod contract;
mod engine;
mod events;
mod fuzz;
mod holds;
mod hostile;
mod listing;
mod model;
mod openapi;
mod operating;
mod outage;
mod partners;
mod plans;
mod process;
mod readme;
mod schema;
mod simulation;
mod stores;
mod support;
mod verify;
