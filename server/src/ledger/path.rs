//! The paths of C2SP `tlog-tiles`.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use super::note::decimal;

/// A resource of a tiled log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    Checkpoint,
    /// `width` is 256 for a full tile.
    Tile {
        level: u8,
        index: u64,
        width: u16,
    },
    Entries {
        index: u64,
        width: u16,
    },
}

impl Display for Resource {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (index, width) = match self {
            Self::Checkpoint => return f.write_str("checkpoint"),
            Self::Tile { level, index, width } => {
                write!(f, "tile/{level}/")?;
                (*index, *width)
            }
            Self::Entries { index, width } => {
                f.write_str("tile/entries/")?;
                (*index, *width)
            }
        };
        let mut groups = Vec::new();
        let mut left = index / 1000;
        while left > 0 {
            groups.push(left % 1000);
            left /= 1000;
        }
        for group in groups.iter().rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", index % 1000)?;
        if width < 256 { write!(f, ".p/{width}") } else { Ok(()) }
    }
}

impl FromStr for Resource {
    type Err = ();

    /// Only the one form of each path is accepted.
    fn from_str(path: &str) -> Result<Self, ()> {
        if path == "checkpoint" {
            return Ok(Self::Checkpoint);
        }
        let (kind, rest) = path
            .strip_prefix("tile/")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(())?;
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (
                index,
                decimal(width).and_then(|width| u16::try_from(width).ok()).ok_or(())?,
            ),
            None => (rest, 256),
        };
        let mut number = 0_u64;
        for group in index.split('/') {
            let digits = group.trim_start_matches('x');
            let value = digits.parse::<u64>().ok().filter(|value| *value < 1000).ok_or(())?;
            number = number
                .checked_mul(1000)
                .and_then(|number| number.checked_add(value))
                .ok_or(())?;
        }
        let resource = match kind {
            "entries" => Self::Entries { index: number, width },
            level => {
                let level = decimal(level)
                    .and_then(|level| u8::try_from(level).ok())
                    .filter(|level| *level < 64)
                    .ok_or(())?;
                Self::Tile {
                    level,
                    index: number,
                    width,
                }
            }
        };
        if width > 0 && resource.to_string() == path {
            Ok(resource)
        } else {
            Err(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_paths_of_the_specification_are_those() {
        let table = [
            ("checkpoint", Resource::Checkpoint),
            (
                "tile/0/x001/x234/067",
                Resource::Tile {
                    level: 0,
                    index: 1_234_067,
                    width: 256,
                },
            ),
            (
                "tile/63/000",
                Resource::Tile {
                    level: 63,
                    index: 0,
                    width: 256,
                },
            ),
            (
                "tile/1/x001/000.p/12",
                Resource::Tile {
                    level: 1,
                    index: 1_000,
                    width: 12,
                },
            ),
            ("tile/entries/000.p/255", Resource::Entries { index: 0, width: 255 }),
        ];
        for (path, resource) in table {
            assert_eq!(path.parse(), Ok(resource));
            assert_eq!(resource.to_string(), path);
        }
    }

    #[test]
    fn a_path_in_another_form_is_refused() {
        for path in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/64/000",
            "tile/0/001/000",
            "tile/0/x000/000",
            "tile/0/x001/x000",
            "tile/0/xx001/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000/",
            "/tile/0/000",
            "tile/0/+01",
            "tile/0/../000",
            "tile/entries/000.p",
            "tile/x/000",
            "checkpoint/",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(path.parse::<Resource>(), Err(()), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_parses_back(level in 0_u8..64, index in any::<u64>(), width in 1_u16..=256) {
            for resource in [Resource::Tile { level, index, width }, Resource::Entries { index, width }] {
                prop_assert_eq!(resource.to_string().parse(), Ok(resource));
            }
        }
    }
}
