//! The sources of a model's files: a folder, or the binary itself.
//!
//! - **CK-1** files are named by plain file names, so no content of a file leads out of the folder. A
//!   symbolic link may: the owner of the folder made it, as the cache of Hugging Face does, or to share a
//!   disk.
//! - **CK-2** only regular files are opened, and small files up to [`SMALL_FILE_MAX`] bytes.
//!
//! Not here: the meaning of the files (see [`ModelShape`], [`crate::Weights`]).

mod foreign;

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use playhouse_layout::{CONFIG_FILE, ConfigError, GenerationDefaults, ModelShape};
use playhouse_ops::{Mapped, map_file};

pub(crate) use self::foreign::{Needed, is_foreign};

/// Largest file that [`Checkpoint::read`] returns, in bytes. The largest published tokenizers have about 35
/// MB.
pub const SMALL_FILE_MAX: u64 = 256 << 20;

/// The beginning of the text that Git LFS puts in place of a file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Most files of a folder that are listed.
const NAMES_MAX: usize = 100_000;

/// The architectures that a model can have.
const SERVED: [&str; 4] =
    ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];

/// The files of a model.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// Canonical path of a folder.
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// The bytes of a whole file, mapped or embedded.
pub(crate) enum FileBytes {
    Mapped(Mapped),
    Embedded(&'static [u8]),
}

/// The reason why a file of a checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The path is no model folder.
    #[error(
        "{}: not a model folder: {reason}; give the path of a folder with config.json, \
         tokenizer.json and model.safetensors", path.display()
    )]
    NotAFolder {
        /// The path given.
        path: PathBuf,
        /// Description of the error.
        reason: String,
    },
    /// A file that every checkpoint has is missing.
    #[error("{place}: {name} is missing{advice}")]
    Missing {
        /// The folder.
        place: String,
        /// The file.
        name: String,
        /// What the folder has instead, and what to do about it.
        advice: String,
    },
    /// A name that is no plain file name (**CK-1**), or a file that is none.
    #[error("{place}: {name}: {reason}")]
    NotAFile {
        /// The folder.
        place: String,
        /// The file, as it was named.
        name: String,
        /// Description of the error.
        reason: String,
    },
    /// A file larger than any of its kind (**CK-2**).
    #[error("{place}: {name}: found {bytes} bytes, expected at most {SMALL_FILE_MAX}")]
    TooLarge {
        /// The folder.
        place: String,
        /// The file.
        name: String,
        /// Size of the file.
        bytes: u64,
    },
    /// A config file with a value that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error of the operating system.
    #[error("{place}: {name}: {source}")]
    Io {
        /// The folder.
        place: String,
        /// The file.
        name: String,
        /// The system's error.
        source: io::Error,
    },
}

// === impl Checkpoint ===

impl Checkpoint {
    /// Opens a checkpoint in a folder, in the layout of Hugging Face.
    ///
    /// # Errors
    /// When `folder` is not a folder that can be read.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let refuse = |reason: String| CheckpointError::NotAFolder { path: folder.into(), reason };
        let path = folder.canonicalize().map_err(|error| refuse(error.to_string()))?;
        if !path.is_dir() {
            return Err(refuse(format!("it is a file{}", foreign::of_file(folder))));
        }
        Ok(Self { source: Source::Folder(path) })
    }

    /// Returns a checkpoint compiled into the binary: pairs of file name and contents.
    #[must_use]
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Self {
        Self { source: Source::Embedded(files) }
    }

    /// Returns whether the checkpoint is compiled into the binary.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        matches!(self.source, Source::Embedded(_))
    }

    /// Reads a whole small file, such as `tokenizer.json`; `None` if there is no such file.
    ///
    /// # Errors
    /// When the file exists and cannot be read, or breaks **CK-1** or **CK-2**.
    pub fn read(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>, CheckpointError> {
        if let Source::Embedded(_) = self.source {
            return Ok(self.embedded_file(name).map(Cow::Borrowed));
        }
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        // The size in the metadata is no bound: the file may grow while it is read.
        let read = file.take(SMALL_FILE_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|source| self.io(name, source))?;
        if bytes.len() as u64 > SMALL_FILE_MAX {
            let (place, name, bytes) = (self.place(), name.to_owned(), bytes.len() as u64);
            return Err(CheckpointError::TooLarge { place, name, bytes });
        }
        self.check_fetched(name, &bytes)?;
        Ok(Some(Cow::Owned(bytes)))
    }

    /// Reads a file that every checkpoint has, as [`Self::read`] does.
    ///
    /// # Errors
    /// As [`Self::read`], and when the file is missing.
    pub fn require(&self, name: &str) -> Result<Cow<'static, [u8]>, CheckpointError> {
        let needed = if name == CONFIG_FILE { Needed::Config } else { Needed::Tokenizer };
        self.read(name)?.ok_or_else(|| self.missing(name, needed))
    }

    /// Reads the shape of the model from `config.json` alone; see [`crate::checkpoint_shape`].
    ///
    /// # Errors
    /// When the file is missing, or describes no decoder that Playhouse can run.
    pub(crate) fn configured(&self) -> Result<ModelShape, CheckpointError> {
        Ok(ModelShape::parse_plain(&self.require(CONFIG_FILE)?, &SERVED)?)
    }

    /// Reads `generation_config.json`; without the file, returns only the end-of-sequence tokens of `shape`.
    ///
    /// # Errors
    /// When the file cannot be read, or a value is out of the range that a request may use.
    pub fn generation_defaults(
        &self,
        shape: &ModelShape,
    ) -> Result<GenerationDefaults, CheckpointError> {
        match self.read(GenerationDefaults::FILE)? {
            Some(json) => Ok(GenerationDefaults::parse(&json, shape)?),
            None => Ok(GenerationDefaults::of(shape)),
        }
    }

    /// Maps a file of any size into memory; `None` if there is no such file.
    pub(crate) fn map(&self, name: &str) -> Result<Option<FileBytes>, CheckpointError> {
        if let Source::Embedded(_) = self.source {
            return Ok(self.embedded_file(name).map(FileBytes::Embedded));
        }
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let mapped = map_file(file).map_err(|source| self.io(name, source))?;
        self.check_fetched(name, &mapped)?;
        Ok(Some(FileBytes::Mapped(mapped)))
    }

    /// Returns the names of the files, in order. A folder that cannot be listed has none.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = match &self.source {
            Source::Folder(folder) => {
                let entries = fs::read_dir(folder).into_iter().flatten().flatten();
                let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
                entries.take(NAMES_MAX).filter_map(name).collect()
            }
            Source::Embedded(files) => files.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        names.sort_unstable();
        names
    }

    /// Returns the folder's name for messages.
    pub(crate) fn place(&self) -> String {
        match &self.source {
            Source::Folder(path) => path.display().to_string(),
            Source::Embedded(_) => "the embedded model".to_owned(),
        }
    }

    pub(crate) fn missing(&self, name: &str, needed: Needed) -> CheckpointError {
        let advice = match &self.source {
            Source::Folder(folder) => match fs::read_link(folder.join(name)) {
                Ok(target) => format!("; it links to {}, which is not there", target.display()),
                Err(_) => foreign::advice(needed, &self.names()),
            },
            Source::Embedded(_) => String::new(),
        };
        CheckpointError::Missing { place: self.place(), name: name.to_owned(), advice }
    }

    fn embedded_file(&self, name: &str) -> Option<&'static [u8]> {
        let Source::Embedded(files) = self.source else { return None };
        files.iter().find(|(file, _)| *file == name).map(|&(_, bytes)| bytes)
    }

    fn open_file(&self, name: &str) -> Result<Option<File>, CheckpointError> {
        let Source::Folder(folder) = &self.source else { return Ok(None) };
        let mut parts = Path::new(name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
        if !plain || name.contains(['\\', '\0']) {
            return Err(self.not_a_file(name, "expected a plain file name inside the folder"));
        }
        let path = folder.join(name);
        // Checked before opening, which would hang on a pipe.
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(name, source)),
        };
        if !metadata.is_file() {
            return Err(self.not_a_file(name, "expected a regular file"));
        }
        File::open(&path).map(Some).map_err(|source| self.io(name, source))
    }

    /// Refuses the pointer that Git leaves in place of a large file that it has not fetched.
    fn check_fetched(&self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        if !bytes.starts_with(LFS_POINTER) {
            return Ok(());
        }
        Err(self.not_a_file(name, "it is a pointer of Git LFS: fetch the file with `git lfs pull`"))
    }

    fn not_a_file(&self, name: &str, reason: &str) -> CheckpointError {
        let (place, name) = (self.place(), name.escape_debug().to_string());
        CheckpointError::NotAFile { place, name, reason: reason.to_owned() }
    }

    fn io(&self, name: &str, source: io::Error) -> CheckpointError {
        CheckpointError::Io { place: self.place(), name: name.to_owned(), source }
    }
}

// === impl FileBytes ===

impl FileBytes {
    /// Returns an error unless the file is still as it was when mapped.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self {
            FileBytes::Mapped(mapped) => mapped.check(),
            FileBytes::Embedded(_) => Ok(()),
        }
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Mapped(mapped) => mapped,
            FileBytes::Embedded(bytes) => bytes,
        }
    }
}
