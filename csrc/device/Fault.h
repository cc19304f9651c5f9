#pragma once

namespace openreg {

// Catches SIGSEGV and SIGBUS on device addresses and says on stderr what was
// touched; then, as for all other faults, the handler installed before runs, or
// the default action. Called once, by initialize().
void installFaultHandler();

} // namespace openreg
