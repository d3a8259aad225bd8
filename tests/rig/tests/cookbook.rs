//! The cookbook: what it names exists, and the order in which things start holds.

use std::fs;
use std::path::Path;

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
    // In the initfs, by the patch for base.
    let patch = read("base/iommud.patch");
    let place = "b/init.initfs.d/40_pcid-spawner-initfs.service";
    let spawner = patch.split("diff --git").find(|part| part.contains(place)).unwrap();
    let mut added = spawner.lines().filter_map(|line| line.strip_prefix('+'));
    let requires = added.find(|line| line.starts_with("requires_weak")).unwrap();
    let requires: Table = requires.parse().unwrap();
    let requires = strings(&requires["requires_weak"]);
    assert!(requires.contains(&IOMMUD) && requires.contains(&"40_hwd.service"), "{requires:?}");
}

#[test]
fn what_the_patch_puts_into_the_initfs_is_what_the_recipe_installs() {
    let patch = read("base/iommud.patch");
    let (_, script) = scripts().into_iter().find(|(name, _)| name == "iommud").unwrap();
    let added = patch.lines().filter(|line| line.starts_with('+'));
    let taken: Vec<_> = added
        .flat_map(|line| line.split("\"$(SYSROOT)/").skip(1))
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(taken.iter().any(|file| file.ends_with(IOMMUD)), "{taken:?}");
    for file in taken {
        let name = file.rsplit('/').next().unwrap();
        let built = programs(&script).iter().any(|(_, program)| *program == name);
        let folder = format!("${{COOKBOOK_STAGE}}/usr/{}", file.trim_end_matches(name));
        let installs = |line: &str| line.contains(&format!("/{name}\"")) && line.contains(&folder);
        let installed = file == format!("bin/{name}") && built || script.lines().any(installs);
        assert!(installed, "the recipe installs no {file}");
    }
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
