//! Container images without a registry or a builder: files in, an OCI archive of one layer out. The same files give the same bytes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cache;
use crate::fault::{Context as _, Fault};

const BLOCK: usize = 512;

/// Writes an archive that `ctr images import` takes, into the cache, and returns its path.
///
/// - `name`: the whole name with registry and tag, or the kubelet does not find it: `docker.io/isthmus/gateway:dev`.
/// - `files`: path on this machine, path in the image without a leading slash, mode. All of them belong to root.
/// - `user`: as in a Dockerfile; empty: root.
pub(crate) fn build(
    name: &str,
    files: &[(PathBuf, &str, u32)],
    entrypoint: &[&str],
    user: &str,
    env: &[(&str, &str)],
) -> Result<PathBuf, Fault> {
    let folder = cache::sub("images")?;
    let target = folder.join(format!("{}.tar", name.replace(['/', ':'], "_")));
    let layer = layer(files)?;
    let env: Vec<String> = env.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "config": {"User": user, "Env": env, "Entrypoint": entrypoint, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
    });
    let config = Blob::json(&config);
    let manifest = Blob::json(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }));
    let mut listed = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    listed["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index =
        Blob::json(&json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed]}));
    let version = Blob::json(&json!({"imageLayoutVersion": "1.0.0"}));

    let half = folder.join(format!("{}.half-{}", name.replace(['/', ':'], "_"), std::process::id()));
    let written = File::create(&half).and_then(|file| {
        let mut out = BufWriter::new(file);
        entry(&mut out, "oci-layout", 0o644, &version.bytes)?;
        entry(&mut out, "index.json", 0o644, &index.bytes)?;
        for blob in [&manifest, &config, &layer] {
            entry(&mut out, &format!("blobs/sha256/{}", blob.sha256), 0o644, &blob.bytes)?;
        }
        finish(&mut out)
    });
    written.context(|| format!("writing {}", half.display()))?;
    fs::rename(&half, &target).context(|| format!("renaming to {}", target.display()))?;
    Ok(target)
}

/// Bytes with their digest.
struct Blob {
    bytes: Vec<u8>,
    sha256: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes, sha256 }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// Folders first, then the files in the order given.
fn layer(files: &[(PathBuf, &str, u32)]) -> Result<Blob, Fault> {
    let folders: BTreeSet<&Path> = files
        .iter()
        .flat_map(|(_, inside, _)| Path::new(inside).ancestors().skip(1))
        .filter(|path| *path != Path::new(""))
        .collect();
    let mut bytes = Vec::new();
    for folder in folders {
        header(&mut bytes, &format!("{}/", folder.display()), 0o755, 0, b'5')
            .context(|| format!("packing {}", folder.display()))?;
    }
    for (host, inside, mode) in files {
        let what = || format!("packing {} as {inside}", host.display());
        let mut content = Vec::new();
        File::open(host).and_then(|file| BufReader::new(file).read_to_end(&mut content)).context(what)?;
        entry(&mut bytes, inside, *mode, &content).context(what)?;
    }
    finish(&mut bytes).context(|| "packing a layer".to_owned())?;
    Ok(Blob::new(bytes))
}

fn entry(out: &mut impl Write, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    header(out, name, mode, content.len(), b'0')?;
    out.write_all(content)?;
    out.write_all(&[0; BLOCK][..content.len().next_multiple_of(BLOCK) - content.len()])
}

/// A header of POSIX.1-1988 (ustar): names of up to 100 bytes are enough here.
fn header(out: &mut impl Write, name: &str, mode: u32, size: usize, kind: u8) -> io::Result<()> {
    if name.len() > 100 || name.starts_with('/') {
        return Err(io::Error::other(format!("the name {name} is absolute or longer than 100 bytes")));
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    // Owner, group and time: all zero.
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    out.write_all(&block)
}

/// Two empty blocks end an archive.
fn finish(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])?;
    out.flush()
}

/// Go's name of it, which image configurations use.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_blocks_a_checksum_and_its_content() {
        let mut bytes = Vec::new();
        entry(&mut bytes, "bin/x", 0o755, b"hello").unwrap();
        finish(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 4 * BLOCK);
        assert_eq!(&bytes[..5], b"bin/x");
        assert_eq!(&bytes[124..136], b"00000000005\0");
        assert_eq!(&bytes[BLOCK..BLOCK + 6], b"hello\0");
        // The sum is taken with spaces in its own place.
        let stored = u32::from_str_radix(std::str::from_utf8(&bytes[148..154]).unwrap(), 8).unwrap();
        bytes[148..156].fill(b' ');
        assert_eq!(stored, bytes[..BLOCK].iter().map(|byte| u32::from(*byte)).sum::<u32>());
    }

    #[test]
    fn names_that_ustar_cannot_hold_are_faults() {
        for name in ["/absolute", &"x".repeat(101)] {
            assert!(entry(&mut Vec::new(), name, 0o644, b"").is_err(), "{name}");
        }
    }
}
