//! A part of a state. Most states share most of their parts with their neighbours, so a copy costs
//! nothing, and its hash is computed once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A value that states share, with its hash.
#[derive(Debug)]
pub struct Part<T>(Arc<(u64, T)>);

impl<T: Hash> Part<T> {
    /// Makes one of a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new((hash_of(&value), value)))
    }
}

impl<T: Hash + Clone> Part<T> {
    /// Changes the value, of this state alone.
    pub fn change<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = T::clone(self);
        let answer = change(&mut value);
        *self = Self::new(value);
        answer
    }
}

impl<T> Part<T> {
    /// The hash of the value.
    pub fn hash(&self) -> u64 {
        self.0.0
    }
}

/// The hash of a value, the same in every run.
pub fn hash_of<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> Hash for Part<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        hasher.write_u64(self.0.0);
    }
}

impl<T: PartialEq> PartialEq for Part<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.0 == other.0.0 && self.0.1 == other.0.1
    }
}

impl<T: Eq> Eq for Part<T> {}
