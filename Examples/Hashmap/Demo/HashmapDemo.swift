import ArgumentParser

@main
struct HashmapDemo: ParsableCommand {
  func run() throws {}
}
