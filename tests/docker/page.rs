//! The commands in the pages of the documentation.

use std::fs;

use crate::shell::ROOT;

/// Returns the lines of every `sh` block of a page.
pub(crate) fn commands(page: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("{ROOT}/{page}")).expect(page);
    let blocks = text.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.map(str::to_owned).collect()
}

#[test]
fn the_readme_has_the_first_three_commands_of_the_page() {
    let (readme, page) = (commands("README.md"), commands("docs/compose.md"));
    let at = readme.iter().position(|line| *line == page[0]).expect("it is in the README");
    assert_eq!(readme[at..at + 3], page[..3]);
}

#[test]
fn what_the_page_on_launchers_starts_is_there() {
    let page = commands("docs/launchers.md");
    let [job, secrets, authority, apply] = &page[..] else { panic!("{page:?}") };
    // These are run by `slurm` and `whole`, or need a cluster of their own.
    assert_eq!(job, "sbatch --nodes=2 docker/slurm/playhouse.sbatch");
    assert_eq!(secrets, "docker/make-secrets docker/k8s/secrets");
    assert_eq!(authority, "playhouse cluster init --dir docker/k8s/secrets/cluster");
    assert_eq!(apply, "kubectl apply -k docker/k8s");
    let kustomization = fs::read_to_string(format!("{ROOT}/docker/k8s/kustomization.yaml"));
    let kustomization = kustomization.expect("it is there");
    for file in ["- head.yaml", "- node.yaml", "- secrets/admin-token", "- secrets/api-key"] {
        assert!(kustomization.contains(file), "{file}");
    }
}
