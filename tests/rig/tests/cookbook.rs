//! The cookbook: what it names exists, and the order in which things start holds.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use rig::cargo::root;
use toml::{Table, Value};

const IOMMUD: &str = "40_iommud.service";

fn read(path: &str) -> String {
    fs::read_to_string(root().join("cookbook").join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn parse(path: &str) -> Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names in a folder of the cookbook.
fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("cookbook").join(folder)).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// What a unit requires.
fn required(unit: &Table) -> Vec<&str> {
    strings(&unit["unit"]["requires_weak"])
}

/// The script of each recipe.
fn scripts() -> Vec<(String, String)> {
    let script = |name: String| {
        let recipe = parse(&format!("recipes/{name}/recipe.toml"));
        (name, recipe["build"]["script"].as_str().unwrap().to_owned())
    };
    names("recipes").into_iter().map(script).collect()
}

/// The programs that a script builds: the package's folder, and the program.
fn programs(script: &str) -> Vec<(&str, &str)> {
    let lines = script.lines().filter_map(|line| line.strip_prefix("COOKBOOK_CARGO_PATH="));
    let each = lines.flat_map(|line| {
        let (folder, flags) = line.split_once(" cookbook_cargo ").unwrap();
        flags.split("--bin ").skip(1).map(move |program| (folder, program.trim()))
    });
    each.collect()
}

fn is_built_by(folder: &Path, program: &str) -> bool {
    let manifest: Table = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
    let named = manifest.get("bin").and_then(Value::as_array).into_iter().flatten();
    let named: Vec<_> = named.filter_map(|bin| bin["name"].as_str()).collect();
    let by_itself = folder.join("src/bin").join(format!("{program}.rs")).is_file();
    let by_package = manifest["package"]["name"].as_str() == Some(program);
    by_itself || named.contains(&program) || by_package && folder.join("src/main.rs").is_file()
}

#[test]
fn each_program_that_a_recipe_builds_is_in_the_workspace() {
    let workspace: Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = strings(&workspace["workspace"]["members"]);
    for (recipe, script) in scripts() {
        assert!(!programs(&script).is_empty(), "{recipe} builds nothing");
        for (folder, program) in programs(&script) {
            assert!(members.contains(&folder), "{recipe}: {folder} is no member of the workspace");
            assert!(is_built_by(&root().join(folder), program), "{recipe}: no {program}");
        }
    }
}

#[test]
fn each_file_that_a_recipe_installs_is_there() {
    let mut units = Vec::new();
    for (recipe, script) in scripts() {
        let files = script.split("\"${COOKBOOK_SOURCE}/").skip(1);
        for file in files.map(|rest| rest.split('"').next().unwrap()) {
            assert!(root().join(file).is_file(), "{recipe} installs {file}");
            units.extend(file.strip_prefix("cookbook/init.d/").map(str::to_owned));
        }
    }
    units.sort();
    assert_eq!(units, names("init.d"), "units, installed and there");
}

#[test]
fn each_unit_starts_a_program_that_a_recipe_builds() {
    let scripts = scripts();
    let built: Vec<_> =
        scripts.iter().flat_map(|(_, script)| programs(script)).map(|(_, name)| name).collect();
    for unit in names("init.d") {
        let parsed = parse(&format!("init.d/{unit}"));
        let command = parsed["service"]["cmd"].as_str().unwrap();
        assert!(built.contains(&command), "{unit} starts {command}");
        // Were there any, they would have to be options that it has.
        assert!(parsed["service"].get("args").is_none(), "{unit} gives {command} words");
    }
}

#[test]
fn iommud_starts_after_the_tables_are_there_and_before_any_driver() {
    let iommud = parse(&format!("init.d/{IOMMUD}"));
    assert_eq!(required(&iommud), ["40_hwd.service"]);
    assert_eq!(iommud["service"]["type"]["scheme"].as_str(), Some("iommu"));
    assert!(required(&parse("init.d/95_iommu-selftest.service")).contains(&IOMMUD));
    // On the root file system, by the image's configuration.
    let config = parse("config/iommu.toml");
    let place = Some("/etc/init.d/00_pcid-spawner.service");
    let mut files = config["files"].as_array().unwrap().iter();
    let spawner = files.find(|file| file["path"].as_str() == place).unwrap();
    let spawner: Table = spawner["data"].as_str().unwrap().parse().unwrap();
    assert!(required(&spawner).contains(&IOMMUD));
}

/// A folder with what `into-initfs.sh` changes in base, and nothing else of it.
struct Base(PathBuf);

impl Base {
    fn new(name: &str, makefile: &str, unit: &str) -> Self {
        let folder = env::temp_dir().join(format!("iommud-base-{name}-{}", process::id()));
        fs::create_dir_all(folder.join("init.initfs.d")).unwrap();
        fs::write(folder.join("Makefile"), makefile).unwrap();
        fs::write(folder.join(SPAWNER), unit).unwrap();
        Self(folder)
    }

    fn change(&self) -> bool {
        let script = root().join("cookbook/base/into-initfs.sh");
        Command::new(script).arg(&self.0).stderr(Stdio::null()).status().unwrap().success()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const SPAWNER: &str = "init.initfs.d/40_pcid-spawner-initfs.service";
const UNIT: &str = "[unit]\nrequires_weak = [\"10_inputd.service\", \"40_hwd.service\"]\n";
const MAKEFILE: &str = "install:\n\tcp units \"$(BUILD_DIR)/initfs/lib/init.d/\"\n\tmake initfs\n";

#[test]
fn what_base_puts_into_the_initfs_is_what_the_recipe_installs() {
    let (_, script) = scripts().into_iter().find(|(name, _)| name == "iommud").unwrap();
    let base = Base::new("put", MAKEFILE, UNIT);
    assert!(base.change());
    let once = base.read("Makefile");
    let taken: Vec<_> =
        once.split("\"$(SYSROOT)/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(taken.len(), 4, "{once}");
    for file in taken {
        let name = file.rsplit('/').next().unwrap();
        let built = programs(&script).iter().any(|(_, program)| *program == name);
        let folder = format!("${{COOKBOOK_STAGE}}/usr/{}", file.trim_end_matches(name));
        let installs = |line: &str| line.contains(&format!("/{name}\"")) && line.contains(&folder);
        let installed = file == format!("bin/{name}") && built || script.lines().any(installs);
        assert!(installed, "the recipe installs no {file}");
    }
    let spawner: Table = base.read(SPAWNER).parse().unwrap();
    assert_eq!(required(&spawner), ["10_inputd.service", "40_hwd.service", IOMMUD]);
    // Done again, it comes to the same.
    assert!(base.change());
    assert_eq!((base.read("Makefile"), base.read(SPAWNER).parse().unwrap()), (once, spawner));
}

#[test]
fn a_base_that_has_no_place_for_iommud_ends_the_build() {
    assert!(!Base::new("makefile", "install:\n", UNIT).change());
    assert!(!Base::new("unit", MAKEFILE, "[unit]\n").change());
}

#[test]
fn the_images_configuration_names_the_recipes() {
    let config = parse("config/iommu.toml");
    let mut named: Vec<_> = config["packages"].as_table().unwrap().keys().cloned().collect();
    named.sort();
    assert_eq!(named, names("recipes"));
    for file in config["files"].as_array().unwrap() {
        assert!(file["path"].is_str() && file["data"].is_str(), "{file:?}");
    }
}

#[test]
fn drivers_are_started_through_iommu_run() {
    for name in names("pcid.d") {
        let parsed = parse(&format!("pcid.d/{name}"));
        for driver in parsed["drivers"].as_array().unwrap() {
            let command = strings(&driver["command"]);
            let first = command.first().is_some_and(|program| program.ends_with("/bin/iommu-run"));
            assert!(first && command.len() > 1, "{name}: {command:?}");
        }
    }
}
