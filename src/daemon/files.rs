//! The configuration on disk.

use std::path::Path;

use crate::config::{Config, ConfigError, Files, Unreadable, default_file};
use crate::io::files;

use super::problem::Problem;

/// How many mistakes are told at once.
const ERRORS_TOLD: usize = 5;

struct OnDisk;

impl Files for OnDisk {
    fn read(&self, path: &str) -> Result<Vec<u8>, Unreadable> {
        files::read(path).map_err(|error| Unreadable(error.to_string()))
    }

    fn glob(&self, pattern: &str) -> Vec<String> {
        files::glob(pattern)
    }

    fn canonical(&self, path: &str) -> String {
        files::canonical(path)
    }
}

/// Reads the configuration: the file asked for, or the first of DRBD's that exists.
pub(super) fn load(path: Option<&Path>) -> Result<Config, Problem> {
    let path = match path {
        Some(path) => path.to_string_lossy().into_owned(),
        None => default_file(|path| Path::new(path).exists()).to_owned(),
    };
    Config::load(&path, &OnDisk).map_err(|errors| {
        let mut sentences: Vec<String> = errors.iter().take(ERRORS_TOLD).map(ToString::to_string).collect();
        if errors.len() > ERRORS_TOLD {
            sentences.push(format!("and {} more", errors.len() - ERRORS_TOLD));
        }
        let sentence = sentences.join("\n");
        if errors.iter().any(ConfigError::is_unreadable_configuration) {
            return Problem::NoConfiguration { sentence };
        }
        Problem::Configuration { sentence }
    })
}
