//! What the engine on sled survives.
