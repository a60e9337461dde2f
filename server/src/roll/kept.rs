//! What somebody else wants kept of pods, namespaces and nodes: read from the API server's own JSON while it is at hand, carried beside what the roll keeps of each, and not looked into here.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Reads what it needs of each object, when the object comes. Asked from the tasks of the watches: it must be quick.
pub trait Reader: Send + Sync + 'static {
    /// Of a pod, as the API server has it.
    ///
    /// # Errors
    /// Why nothing can be kept of it; the pod is then known without.
    fn pod(&self, cluster: &str, json: &str) -> Result<Kept, String>;

    /// Of a node.
    ///
    /// # Errors
    /// As [`Reader::pod`].
    fn node(&self, cluster: &str, json: &str) -> Result<Kept, String>;

    /// Of a namespace, of which there is only the metadata.
    ///
    /// # Errors
    /// As [`Reader::pod`].
    fn namespace(&self, cluster: &str, json: &str) -> Result<Kept, String>;
}

/// What a [`Reader`] kept. Two of them are equal when what is in them is; so an object is news when it has changed.
#[derive(Clone)]
pub struct Kept(Arc<dyn Value>);

trait Value: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn is(&self, other: &dyn Any) -> bool;
}

impl<T: Any + PartialEq + Send + Sync> Value for T {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn is(&self, other: &dyn Any) -> bool {
        other.downcast_ref::<T>().is_some_and(|other| self == other)
    }
}

impl Kept {
    /// Keeps a value.
    pub fn new<T: Any + PartialEq + Send + Sync>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// The value, to whoever knows what it is.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_any().downcast_ref()
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.is(other.0.as_any())
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_equal_by_its_value_and_known_by_its_type() {
        let kept = Kept::new("a".to_owned());
        assert_eq!(kept, Kept::new("a".to_owned()));
        assert_ne!(kept, Kept::new("b".to_owned()));
        assert_ne!(kept, Kept::new("a"));
        assert_eq!(kept.get::<String>().map(String::as_str), Some("a"));
        assert_eq!(kept.get::<&str>(), None);
    }
}
