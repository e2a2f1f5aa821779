import Foundation
import TestSupport
import Testing

/// The Python module as its users install it: by pip, into an environment of its own.
enum PythonInstallation {
  /// Where python3 is that has the module; nil, after a line that says why, where it cannot be had.
  static var python: String? {
    get async { await made.value }
  }

  private static let made = Task<String?, Never> {
    do {
      let installation = try await Installation.shared
      let environment = installation.prefix + "/python"
      let source = installation.prefix + "/Python"
      try FileManager.default.copyItem(atPath: Installation.root + "/Python", toPath: source)
      let outcome = try await installation.shell(
        """
        python3 -c 'import numpy, pytest'
        python3 -m venv --system-site-packages '\(environment)'
        . '\(environment)/bin/activate'
        pip install --quiet --disable-pip-version-check --no-build-isolation '\(source)' ||
          pip install --quiet --disable-pip-version-check '\(source)'
        """, in: installation.prefix)
      if outcome.status == .exited(0) { return environment + "/bin/python3" }
      print("python 0 run, 1 skipped: \(outcome.errors.split(separator: "\n").last ?? "")")
    } catch {
      print("python 0 run, 1 skipped: \(error)")
    }
    return nil
  }
}

@Suite(.serialized) struct PythonTests {
  @Test func theModuleDoesWhatItSays() async throws {
    guard let python = await PythonInstallation.python else { return }
    let installation = try await Installation.shared
    let library = "export VOLIP_LIBRARY='\(installation.prefix)/lib/libvolip.so'"
    let outcome = try await installation.shell(
      """
      unset LD_LIBRARY_PATH; \(library); export PYTHONDONTWRITEBYTECODE=1
      '\(python)' -m pytest -q -p no:cacheprovider '\(Installation.root)/Python/tests'
      """, in: installation.prefix)
    let summary = outcome.output.split(separator: "\n").last ?? ""
    print("python: \(summary)")
    #expect(outcome.status == .exited(0), "\(outcome.output) \(outcome.errors)")
    #expect(summary.contains(" passed"))
  }

  @Test func thePageOnPythonDoesWhatItSays() async throws {
    guard let python = await PythonInstallation.python else { return }
    let directory = TemporaryDirectory()
    let page = try Page("Python.md")
    #expect(page.blocks.filter { $0.language == "python" }.count == 2)
    let outcome = try await page.run(
      try await Installation.shared, in: directory.path,
      before: "unset LD_LIBRARY_PATH; . \(python.dropLast("python3".count))activate")
    #expect(outcome.status == .exited(0), "\(outcome.errors)")
    #expect(outcome.output == "1 somebody\n2 somebody\n2\n", "\(outcome.output)")
  }
}
