// CVolipPreload: CVolipEnter as a library without the Swift runtime.
