//! The service as its users meet it: over HTTP, on a real PostgreSQL, as a process.

mod contract;
mod engine;
mod openapi;
mod support;
