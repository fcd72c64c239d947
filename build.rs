//! Build script of `forebay-sys`. Without the feature `spdk` it does nothing. With it, it finds an installed SPDK with
//! pkg-config, names its libraries to the linker, and makes the bindings.

fn main() {
    println!("cargo::rerun-if-changed=../build.rs");
    #[cfg(feature = "spdk")]
    if let Err(error) = spdk::link_and_bind() {
        println!("cargo::error={error}");
    }
}

#[cfg(feature = "spdk")]
mod spdk {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// What must be found. `libdpdk` is asked for its directory; SPDK names DPDK's libraries itself.
    const ROOTS: [&str; 5] = ["spdk_nvme", "spdk_env_dpdk", "spdk_sock_posix", "spdk_syslibs", "libdpdk"];

    /// The oldest SPDK that this was written against and tried with.
    const VERSION_MIN: (u32, u32) = (26, 5);

    /// Nothing refers to these: their constructors register transports, sockets, buses and memory pools. Without them
    /// an attach says "trtype 3 (TCP) not available" or "Cannot find any sock implementation".
    const REGISTERED: [&str; 6] =
        ["spdk_nvme", "spdk_env_dpdk", "spdk_sock_posix", "rte_mempool_ring", "rte_bus_pci", "rte_bus_vdev"];

    /// Named by SPDK, not installed, and needed by a target alone.
    const NOT_NEEDED: &str = "vfio-user";

    const HEADERS: &str =
        "#include <spdk/env.h>\n#include <spdk/log.h>\n#include <spdk/nvme.h>\n#include <spdk/version.h>\n";

    const FUNCTIONS: [&str; 30] = [
        "spdk_env_init",
        "spdk_env_opts_init",
        "spdk_free",
        "spdk_log_set_print_level",
        "spdk_nvme_connect",
        "spdk_nvme_ctrlr_alloc_io_qpair",
        "spdk_nvme_ctrlr_cmd_get_log_page",
        "spdk_nvme_ctrlr_fail",
        "spdk_nvme_ctrlr_free_io_qpair",
        "spdk_nvme_ctrlr_get_data",
        "spdk_nvme_ctrlr_get_default_ctrlr_opts",
        "spdk_nvme_ctrlr_get_default_io_qpair_opts",
        "spdk_nvme_ctrlr_get_first_active_ns",
        "spdk_nvme_ctrlr_get_max_xfer_size",
        "spdk_nvme_ctrlr_get_next_active_ns",
        "spdk_nvme_ctrlr_get_ns",
        "spdk_nvme_ctrlr_is_active_ns",
        "spdk_nvme_ctrlr_process_admin_completions",
        "spdk_nvme_ctrlr_register_timeout_callback",
        "spdk_nvme_detach",
        "spdk_nvme_ns_cmd_dataset_management",
        "spdk_nvme_ns_cmd_flush",
        "spdk_nvme_ns_cmd_read",
        "spdk_nvme_ns_cmd_write",
        "spdk_nvme_ns_get_md_size",
        "spdk_nvme_ns_get_num_sectors",
        "spdk_nvme_ns_get_sector_size",
        "spdk_nvme_qpair_process_completions",
        "spdk_nvme_transport_id_parse",
        "spdk_pci_addr_parse",
    ];

    /// Functions of `env.h` and constants, beside those above.
    const MORE: [&str; 6] = [
        "spdk_zmalloc",
        "SPDK_MALLOC_DMA",
        "SPDK_ENV_NUMA_ID_ANY",
        "SPDK_NVME_IO_FLAGS_FORCE_UNIT_ACCESS",
        "SPDK_VERSION_MAJOR",
        "SPDK_VERSION_MINOR",
    ];

    /// Packed structures with aligned members, which Rust cannot express (E0588). Their bytes are read by offset.
    const OPAQUE: &str =
        "spdk_nvme_ctrlr_data|spdk_nvme_ns_data|spdk_nvme_cdata_.*|spdk_nvmf_fabric_.*|spdk_nvme_tcp_.*";

    pub fn link_and_bind() -> Result<(), String> {
        for name in ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"] {
            println!("cargo::rerun-if-env-changed={name}");
        }
        let cflags = pkg_config(&["--cflags"])?;
        let libs = pkg_config(&["--static", "--libs"])?;
        check_version(&cflags)?;
        link(&libs);
        bind(&cflags)
    }

    /// The words that pkg-config prints. The crate of that name would lose whole archives and misread `-l:name.a`.
    fn pkg_config(options: &[&str]) -> Result<Vec<String>, String> {
        let program = std::env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
        let run = |roots: &[&str]| Command::new(&program).args(options).args(roots).output();
        let missing = |root: &str, why: &str| {
            format!(
                "feature `spdk` needs an installed SPDK {}.{:02}: pkg-config does not find {root} ({why}); \
                 set PKG_CONFIG_PATH, see vendor/README.md",
                VERSION_MIN.0, VERSION_MIN.1
            )
        };
        for root in ROOTS {
            let output = run(&[root]).map_err(|error| missing(root, &format!("{}: {error}", program.display())))?;
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr);
                return Err(missing(root, why.lines().last().unwrap_or("it said nothing").trim()));
            }
        }
        let output = run(&ROOTS).map_err(|error| missing(ROOTS[0], &error.to_string()))?;
        Ok(words(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Splits at blanks; a backslash takes the next character as it is.
    fn words(text: &str) -> Vec<String> {
        let (mut words, mut word) = (Vec::new(), String::new());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => word.extend(characters.next()),
                blank if blank.is_whitespace() => {
                    words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
                }
                other => word.push(other),
            }
        }
        words.extend(Some(word).filter(|word| !word.is_empty()));
        words
    }

    fn check_version(cflags: &[String]) -> Result<(), String> {
        let folders = cflags.iter().filter_map(|word| word.strip_prefix("-I")).map(Path::new);
        let header = folders.chain([Path::new("/usr/include")]).map(|folder| folder.join("spdk/version.h"));
        let Some(text) = header.filter_map(|path| std::fs::read_to_string(path).ok()).next() else {
            return Err("feature `spdk`: SPDK is named by pkg-config, but spdk/version.h is not where it says".into());
        };
        let number = |name: &str| -> Option<u32> {
            let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(name))?;
            line.split_whitespace().nth(2)?.parse().ok()
        };
        let found = number("SPDK_VERSION_MAJOR").zip(number("SPDK_VERSION_MINOR"));
        match found {
            Some(found) if found >= VERSION_MIN => Ok(()),
            _ => Err(format!(
                "feature `spdk` needs SPDK {}.{:02} or later, and pkg-config finds {found:?}; \
                 set PKG_CONFIG_PATH, see vendor/README.md",
                VERSION_MIN.0, VERSION_MIN.1
            )),
        }
    }

    /// `rustc-link-lib` reaches the crates that depend on this one; `rustc-link-arg` would not.
    fn link(words: &[String]) {
        let mut folders: BTreeSet<PathBuf> =
            words.iter().filter_map(|word| word.strip_prefix("-L")).map(PathBuf::from).collect();
        let mut names = Vec::new();
        for word in words {
            if let Some(name) = word.strip_prefix("-l") {
                names.push(name);
            } else if let Some((folder, name)) = archive(word) {
                folders.insert(folder.to_owned());
                names.push(name);
            }
        }
        for folder in &folders {
            println!("cargo::rustc-link-search=native={}", folder.display());
        }
        let mut seen = BTreeSet::new();
        for name in names {
            if name.starts_with(':') || name == NOT_NEEDED || !seen.insert(name) {
                continue;
            }
            let archive = folders.iter().any(|folder| folder.join(format!("lib{name}.a")).is_file());
            if REGISTERED.contains(&name) {
                println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={name}");
            } else if archive {
                println!("cargo::rustc-link-lib=static:-bundle={name}");
            } else {
                println!("cargo::rustc-link-lib=dylib={name}");
            }
        }
    }

    /// The folder and the name of a library that is named by its path: "/x/libisal.a".
    fn archive(word: &str) -> Option<(&Path, &str)> {
        let path = Path::new(word);
        let name = path.file_name()?.to_str()?.strip_prefix("lib")?.strip_suffix(".a")?;
        Some((path.parent().filter(|_| path.is_absolute())?, name))
    }

    fn bind(cflags: &[String]) -> Result<(), String> {
        let mut builder = bindgen::builder()
            .header_contents("forebay_spdk.h", HEADERS)
            .clang_args(cflags)
            .opaque_type(OPAQUE)
            .allowlist_type("spdk_nvme_cpl")
            .derive_debug(false)
            .derive_default(true)
            .generate_comments(false)
            .layout_tests(false)
            // A value that a device supplies may be none of an enum's: no Rust enum.
            .default_enum_style(bindgen::EnumVariation::Consts)
            .rust_target(bindgen::RustTarget::stable(82, 0).map_err(|error| error.to_string())?);
        for name in FUNCTIONS.iter().chain(&MORE) {
            builder = builder.allowlist_function(name).allowlist_var(name);
        }
        let out = std::env::var_os("OUT_DIR").map(PathBuf::from).ok_or("OUT_DIR is not set")?;
        let bindings = builder.generate().map_err(|error| {
            format!("feature `spdk`: the bindings cannot be made ({error}); libclang must be installed")
        })?;
        bindings.write_to_file(out.join("spdk.rs")).map_err(|error| format!("write the bindings: {error}"))
    }
}
