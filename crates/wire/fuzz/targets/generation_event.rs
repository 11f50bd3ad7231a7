#![no_main]
playhouse_wire_fuzz::decoder!(GenerationEvent);
