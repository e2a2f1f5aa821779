// Exchange with the ordinary types: Codable, and text for people.
//
// A collection that cannot be copied cannot conform to Encodable, Decodable or
// CustomStringConvertible; it has what they ask for all the same, under the same names.

extension PersistentArray where Element: BitwiseCopyable {
  /// The elements as an array's description has them.
  public var description: String { Array(self).description }
}

extension PersistentArray where Element: BitwiseCopyable & Encodable {
  /// Encodes the elements as an array does.
  public func encode(to encoder: any Encoder) throws { try Array(self).encode(to: encoder) }
}

extension PersistentArray where Element: BitwiseCopyable & Decodable {
  /// An array with what an array's encoding has.
  public init(from decoder: any Decoder, in section: inout Section) throws {
    try self.init([Element](from: decoder), in: &section)
  }
}

extension PersistentDictionary where Key: BitwiseCopyable & Hashable, Value: BitwiseCopyable {
  /// Keys and values as a dictionary's description has them.
  public var description: String { Dictionary(self).description }
}

extension PersistentDictionary
where Key: BitwiseCopyable & Hashable & Encodable, Value: BitwiseCopyable & Encodable {
  /// Encodes keys and values as a dictionary does.
  public func encode(to encoder: any Encoder) throws { try Dictionary(self).encode(to: encoder) }
}

extension PersistentDictionary
where Key: BitwiseCopyable & Hashable & Decodable, Value: BitwiseCopyable & Decodable {
  /// A dictionary with what a dictionary's encoding has.
  public init(from decoder: any Decoder, in section: inout Section) throws {
    let decoded = try [Key: Value](from: decoder)
    try self.init(decoded.lazy.map { (key: $0.key, value: $0.value) }, in: &section)
  }
}
