// A load's report as one page that needs nothing else: plots are inline SVG. Well-formed as XML.
#pragma once

#include <string>

#include "coordinator/cli/bench/load_report.h"

namespace whalepod {

std::string ReportHtml(const LoadReport& report);

}  // namespace whalepod
